"""How many of the first suspects are really wrong: panorama beside cleanlab, on the same out-of-fold probabilities.

    python benchmarks/suspects.py DATA --audit AUDIT.csv [--weights PATH]      against people who looked
    python benchmarks/suspects.py DATA [--audit AUDIT.csv] --planted           against errors planted here, three seeds
    python benchmarks/suspects.py demo --planted                               the same on the drawn demo, whose truth is known

AUDIT: the image, then 1, 0 or ? for each label. With --audit a cell of the data set's own labels counts only where the audit knows the
truth; real and planted errors both count as errors there. Needs requirements-dev.txt (cleanlab is the peer).
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from evidence import (
    SETTINGS,
    Truth,
    Views,
    audited,
    cleanlab_cells,
    cleanlab_images,
    copies,
    judged,
    planted,
    read,
    with_properties,
)
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from panorama import metrics, suspects
from panorama.datasets import DataSet
from panorama.demo import draw_demo
from panorama.kernel import Likeness

SEEDS, BOOTSTRAPS = 3, 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help='the seed layout, or "demo"')
    parser.add_argument("--weights", default="imagenet", help="imagenet (downloaded), or a torchvision mobilenet_v2 state dict")
    parser.add_argument("--audit", type=Path)
    parser.add_argument("--planted", action="store_true")
    parser.add_argument("--labels", type=int, nargs="*", default=[5, 20], help="how many labels the planted settings have")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        is_demo = options.data == "demo"
        path = (
            draw_demo(Path(folder) / "demo", n_images=800, seed=7, missing_share=0, extra_share=0)
            if is_demo
            else Path(options.data)
        )
        start = time.perf_counter()
        data, views, groups = read(path, options.weights)
        print(
            f"{len(data.images):,} images, {len(data.labels)} labels; features in {time.perf_counter() - start:.0f} s (0 when cached)"
        )
        truth = audited(data, options.audit)
        if options.audit:
            against_people(data, views, groups, truth)
        if options.planted:
            for n_labels in options.labels:
                targets, known = (data.targets, truth) if n_labels == data.targets.shape[1] else with_properties(data, truth)
                against_planted(views.likeness(), targets, known, groups, (data.groups, copies(data)))


def against_people(data: DataSet, views: Views, groups: np.ndarray, truth: Truth) -> None:
    start = time.perf_counter()
    folds = judged(views.likeness(), data.targets, groups, repeats=2)
    found = suspects.doubts(data.targets, folds.scores, folds.in_context, data.groups, copies(data))
    print(
        f"out-of-fold mAP {metrics.mean_average_precision(data.targets, folds.probabilities):.4f}; folds and doubts in {time.perf_counter() - start:.0f} s"
    )
    wrong = (data.targets != truth.values) & truth.known
    rows = truth.known.any(1)
    print(
        f"\ncells: {wrong.sum()} wrong of {truth.known.sum():,} audited in {rows.sum()} images; 95 % interval by bootstrap over images"
    )
    print(f"  {'':<44} {'AP':>5}  {'interval':>11}  {'@25':>4} {'@30':>4} {'@50':>4} {'@100':>4}  {'missing':>7} {'extra':>6}")
    cells = [(f"cleanlab {name}", score) for name, score in cleanlab_cells(data.targets, folds.probabilities)]
    context = [
        (f"cleanlab {name}, in context", score) for name, score in cleanlab_cells(data.targets, folds.in_context.clip(0, 1))
    ]
    for name, score in [*cells, *context, ("panorama", found.values)]:
        print(f"  {name:<44} {cell_line(score, wrong, truth.known, data.targets)}")
    own = [
        (f"cleanlab {name}, its own heads", score)
        for name, score in cleanlab_cells(data.targets, logistic(views.whole, data.targets))
    ]
    for name, score in own:
        print(f"  {name:<44} {cell_line(score, wrong, truth.known, data.targets)}")
    for which, scores in (("the same probabilities", cells), ("probabilities of its own: logistic heads, as its tutorials", own)):
        best = max(average_precision(score, wrong, truth.known) for _, score in scores)
        print(f"  panorama / cleanlab's best on {which}: {average_precision(found.values, wrong, truth.known) / best:.2f}")
    print(f"\nimages: {wrong.any(1).sum()} with a wrong cell; panorama's cells count where the audit knows the truth")
    print(f"  {'':<44} {'AP':>5}  {'interval':>11}  {'@25':>4} {'@30':>4} {'@50':>4} {'@100':>4}")
    audited_doubt = np.where(truth.known, found.values, 0)
    images = [(f"cleanlab {name}", score) for name, score in cleanlab_images(data.targets, folds.probabilities)]
    ours = [
        ("panorama worst cell", suspects.worst_cell(audited_doubt)),
        ("panorama whole image", suspects.whole_image(audited_doubt)),
    ]
    for name, score in [*images, *ours]:
        print(f"  {name:<44} {line(score[rows], wrong.any(1)[rows])}")


def logistic(whole: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """What somebody who follows cleanlab's tutorials has: logistic regression on the features of the whole picture, five folds.

    Its strength is the best of three for mAP (0.001, 0.01, 1).
    """
    heads = make_pipeline(StandardScaler(), OneVsRestClassifier(LogisticRegression(C=0.01, max_iter=300)))
    folds = KFold(5, shuffle=True, random_state=0)  # the CSV may be in the order of the labels
    return cross_val_predict(heads, whole, targets, cv=folds, method="predict_proba")


def against_planted(
    likeness: Likeness, targets: np.ndarray, truth: Truth, groups: np.ndarray, twins: tuple[np.ndarray, np.ndarray]
) -> None:
    """groups: pictures that look alike, kept in one fold; twins: those of them that are near-duplicates pixel by pixel."""
    n_labels = targets.shape[1]
    print(
        f"\nplanted errors, {n_labels} labels, {SEEDS} seeds: average precision of cells (mean, spread over seeds); errors estimated"
    )
    print(
        f"  {'':<24} {'errors':>7} {'cleanlab':>9} {'panorama':>9} {'margin':>7} {'spread':>7} {'estimated':>10} {'after 100':>10}  200 reviewed: as ranked, re-ranked"
    )
    doubt, wrong_all, close, close_later, close_planted = [], [], [], [], []
    for name, setting in SETTINGS.items():
        peer, own, errors, estimates, laters, plain, learned, of_all = [], [], [], [], [], [], [], []
        for seed in range(SEEDS):
            given = planted(targets, setting, seed)
            folds = judged(likeness, given, groups, repeats=1)
            found = suspects.doubts(given, folds.scores, folds.in_context, *twins).values
            wrong = (given != truth.values) & truth.known
            peer.append(
                max(average_precision(score, wrong, truth.known) for _, score in cleanlab_cells(given, folds.probabilities))
            )
            own.append(average_precision(found, wrong, truth.known))
            errors.append(int(wrong.sum()))
            estimates.append(found[truth.known].sum())
            of_all.append((found.sum(), (given != targets).sum()))
            known = np.flatnonzero(truth.known)
            cells = [array.ravel()[known] for array in (found, given, np.broadcast_to(np.arange(n_labels), given.shape), wrong)]
            plain.append(reviewed(*cells, relearn=False)[0])
            n_found, later = reviewed(*cells, relearn=True)
            learned.append(n_found)
            laters.append(later)
            doubt.append(found[truth.known])
            wrong_all.append(wrong[truth.known])
        close.append(is_close(np.mean(estimates), np.mean(errors)))
        close_planted.append(is_close(*np.mean(of_all, 0)))
        close_later.append(is_close(np.mean(laters), np.mean(errors)))
        margin = np.subtract(own, peer)
        error = margin.std(ddof=1) / np.sqrt(SEEDS)
        word = "within noise" if abs(margin.mean()) < 2 * error else "behind" if margin.mean() < 0 else ""
        print(
            f"  {name:<24} {np.mean(errors):7.0f} {np.mean(peer):9.3f} {np.mean(own):9.3f} {margin.mean():+7.3f} {margin.std(ddof=1):7.3f}"
            f" {np.mean(estimates):6.0f} {'ok ' if close[-1] else 'off'} {np.mean(laters):6.0f} {'ok ' if close_later[-1] else 'off'}  {np.mean(plain):5.0f} {np.mean(learned):5.0f}   {word}",
            flush=True,
        )
    print(f"  estimates within 25 % of the truth: {sum(close)} of {len(close)}; after 100 answers {sum(close_later)}")
    if not truth.known.all():
        print(f"  over all cells, of the planted errors alone: {sum(close_planted)} of {len(close_planted)}")
    d, w = np.concatenate(doubt), np.concatenate(wrong_all)
    print("  calibration over all settings, doubt: share wrong (cells)")
    for low in np.arange(0, 1, 0.1):
        inside = (d >= low) & ((d < low + 0.1) | (low > 0.85))
        print(
            f"    {low:.1f}-{low + 0.1:.1f}: mean doubt {d[inside].mean():.2f}, wrong {w[inside].mean():.2f} ({inside.sum():,})"
        )


def is_close(estimate: float, truth: float) -> bool:
    return bool(abs(estimate - truth) <= 0.25 * truth)


def reviewed(
    doubt: np.ndarray, given: np.ndarray, label_of: np.ndarray, wrong: np.ndarray, *, relearn: bool, budget: int = 200
) -> tuple[int, float]:
    """Errors among the first `budget` cells a reviewer answers from the truth, ten at a time; how many there are in all, as estimated at half of it."""
    decided = np.zeros(0, np.int64)
    waiting = np.ones(len(doubt), bool)
    estimate = float("nan")
    for n in range(0, budget, 10):
        now = suspects.relearned(doubt, given, label_of, decided, wrong[decided]) if relearn else doubt
        positions = np.flatnonzero(waiting)
        if n == budget // 2:
            estimate = float(wrong[decided].sum() + now[positions].sum())
        first = positions[np.argsort(-now[positions], kind="stable")[:10]]
        waiting[first] = False
        decided = np.concatenate([decided, first])
    return int(wrong[decided].sum()), estimate


def average_precision(score: np.ndarray, wrong: np.ndarray, known: np.ndarray) -> float:
    return float(average_precision_score(wrong[known], score[known])) if wrong[known].any() else float("nan")


def cell_line(score: np.ndarray, wrong: np.ndarray, known: np.ndarray, given: np.ndarray) -> str:
    kinds = [average_precision(score, wrong, known & (given == value)) for value in (0, 1)]
    images = np.flatnonzero(known.any(1))
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(BOOTSTRAPS):
        rows = rng.choice(images, len(images))
        drawn.append(average_precision(score[rows], wrong[rows], known[rows]))
    return f"{line(score[known], wrong[known], np.nanpercentile(drawn, [2.5, 97.5]))}  {kinds[0]:7.3f} {kinds[1]:6.3f}"


def line(score: np.ndarray, wrong: np.ndarray, interval: np.ndarray | None = None) -> str:
    if interval is None:
        rng = np.random.default_rng(0)
        picks = [rng.choice(len(score), len(score)) for _ in range(BOOTSTRAPS)]
        interval = np.nanpercentile([average_precision_score(wrong[p], score[p]) for p in picks if wrong[p].any()], [2.5, 97.5])
    order = np.argsort(-score, kind="stable")
    shares = " ".join(f"{wrong[order[:n]].mean():4.0%}" for n in (25, 30, 50, 100))
    return f"{average_precision_score(wrong, score):.3f}  {interval[0]:.2f} - {interval[1]:.2f}  {shares}"


if __name__ == "__main__":
    main()
