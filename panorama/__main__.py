"""The command line: the same journeys as the pages, without a browser.

Exit codes: 0 success, 1 bad input (one clear line on standard error), 2 bad usage.
"""

import argparse
import dataclasses
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from panorama import cache, datasets, finding, runs
from panorama.archives import import_zip
from panorama.config import NAMED_WEIGHTS, TrainConfig, demo_config, seed_recipe
from panorama.csvscan import counted, csv_text
from panorama.errors import PanoramaError
from panorama.files import write_atomically
from panorama.labels import read_decisions
from panorama.reviewfiles import open_queue
from panorama.runs import Run

if TYPE_CHECKING:
    from panorama.processes import Team

_CHOICES = {
    "precision": ["auto", "float32", "bfloat16"],
    "fold_models": ["auto", "heads", "trained"],
    "schedule": ["cosine", "constant"],
}
_PROJECT = Path(__file__).resolve().parent.parent


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    if hasattr(sys.stdout, "reconfigure"):  # a label may hold what the terminal's encoding has no character for
        sys.stdout.reconfigure(errors="backslashreplace")
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
        return code
    except PanoramaError as error:
        print(f"panorama: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("panorama: interrupted.", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(
            f"panorama: {where}{error.strerror or error}. Check the path, the disk space and your rights there.", file=sys.stderr
        )
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m panorama",
        description="Train a multi-label image classifier, find the labels that are probably wrong, take home a corrected CSV.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    data_help = "a folder with pictures and CSVs, a CSV in the folder of its pictures, or a zip of such a folder"

    check = commands.add_parser("check", help="say what is in a data set and what is wrong with it")
    check.add_argument("data", metavar="DATA", type=Path, help=data_help)
    check.add_argument("--file-column", metavar="NAME", help="the column with the file names, where the guess is wrong")
    check.set_defaults(run=_check)

    train = commands.add_parser("train", help="train in two phases, predict, and rank suspects; the last line is the run folder")
    train.add_argument("data", metavar="DATA", type=Path, help=data_help)
    train.add_argument("--file-column", metavar="NAME", help="the column with the file names, where the guess is wrong")
    train.add_argument("--out", metavar="RUN_DIR", type=Path, help="the run folder, new or empty (default: in the workspace)")
    _add_training_options(train)
    train.set_defaults(run=_train)

    resume = commands.add_parser("resume", help="go on with a run that was stopped or killed")
    resume.add_argument("run_dir", metavar="RUN_DIR", type=Path)
    resume.set_defaults(run=_resume)

    stop = commands.add_parser("stop", help="ask a run that trains elsewhere to stop; it can be resumed")
    stop.add_argument("run_dir", metavar="RUN_DIR", type=Path)
    stop.set_defaults(run=_stop)

    listing = commands.add_parser("runs", help="list the runs of the workspace")
    listing.set_defaults(run=_runs)

    suspects = commands.add_parser("suspects", help="every cell of every image, the most doubtful first")
    suspects.add_argument("run_dir", metavar="RUN_DIR", type=Path)
    suspects.add_argument(
        "--kind", choices=["missing", "extra"], help="only cells where the CSV says no (missing) or yes (extra)"
    )
    suspects.add_argument("--images", action="store_true", help="one row an image, by how likely any cell of it is wrong")
    suspects.add_argument("--out", metavar="CSV", type=Path, help="write them here (default: the first 20 on standard output)")
    suspects.set_defaults(run=_suspects)

    predict = commands.add_parser("predict", help="probabilities for pictures the run has not seen")
    predict.add_argument("run_dir", metavar="RUN_DIR", type=Path)
    predict.add_argument("pictures", metavar="PICTURE_OR_FOLDER", type=Path, nargs="+")
    predict.add_argument("--out", metavar="CSV", type=Path, help="write them here (default: standard output)")
    predict.set_defaults(run=_predict)

    onnx = commands.add_parser("onnx", help="write the model of a run as an ONNX file, for other programs")
    onnx.add_argument("run_dir", metavar="RUN_DIR", type=Path)
    onnx.add_argument("--out", metavar="FILE", type=Path, required=True)
    onnx.set_defaults(run=_onnx)

    cached = commands.add_parser("cache", help="say what is kept to be faster, or clear it; nothing is lost by that but time")
    cached.add_argument("--clear", action="store_true")
    cached.set_defaults(run=_cache)

    export = commands.add_parser("export", help="write each CSV corrected; every other byte stays as it is")
    export.add_argument("data", metavar="DATA", type=Path, help=data_help)
    export.add_argument("--decisions", metavar="CSV", type=Path, required=True, help="columns image, label, value (0 or 1)")
    export.add_argument("--out", metavar="DIR", type=Path, required=True)
    export.set_defaults(run=_export)

    report = commands.add_parser("report", help="write all that was measured and decided as one HTML file for a colleague")
    report.add_argument("run_dir", metavar="RUN_DIR", type=Path)
    report.add_argument("--out", metavar="FILE", type=Path, required=True)
    report.set_defaults(run=_report)

    effect = commands.add_parser("effect", help="train again on the corrected labels, and say what it changed")
    effect.add_argument("run_dir", metavar="RUN_DIR", type=Path)
    effect.set_defaults(run=_effect)

    demo = commands.add_parser("demo", help="the whole loop on pictures that panorama draws, without a network")
    demo.add_argument("folder", metavar="DIR", type=Path, nargs="?", help="default: demo in the workspace")
    demo.add_argument("--images", type=int, default=400, metavar="N", help="how many pictures to draw (default 400)")
    demo.add_argument("--seed", type=int, default=0)
    demo.set_defaults(run=_demo)

    serve = commands.add_parser("serve", help="open the app on this machine only")
    serve.add_argument("--port", type=_port, default=8501)
    serve.set_defaults(run=_serve)
    return parser


def _add_training_options(parser: argparse.ArgumentParser) -> None:
    """One option for each field of TrainConfig, with its default."""
    helps = {
        "backbone": "a torchvision classifier: mobilenet_v2, vgg16, resnet50, efficientnet_b0, ...",
        "weights": "imagenet (torchvision's, downloaded on first use), starter (of mobilenet_v2, taught by drawn pictures, comes with panorama; taken where "
        "the download fails), none, or the path of a weights file as PyTorch saves them (a state dict)",
        "image_size": "side in pixels of what the network sees",
        "augmentation": "turn, crop and mirror training pictures at random",
        "validation_share": "share of the training split that decides early stopping, the best epoch and thresholds",
        "test_share": "share held out for the report, where the data brings no test split",
        "unfreeze": "what fine tuning trains: all, or the last N blocks",
        "precision": "of training steps and feature passes, auto measures which is faster here; answers are float32",
        "folds": "folds of the out-of-fold probabilities",
        "fold_models": "what judges a fold: heads on pretrained features, or a model trained for it; auto: heads unless --weights none",
        "fold_repeats": "how often the folds are drawn anew",
        "threshold": "probability above which a label counts as predicted",
        "epochs_adaptation": "at most so many epochs with the extractor frozen",
        "schedule": "of the learning rate in fine tuning: cosine needs few epochs and all of them, constant goes on until patience ends it",
        "batch_size": "of all processes together",
        "epochs_finetuning": "at most so many epochs with layers unfrozen",
    }
    parser.add_argument(
        "--recipe",
        choices=["fast", "seed"],
        help="the numbers that the others start from: fast (the default), or seed, the notebook panorama began as (the default with "
        "--weights none: from random weights a few epochs learn little)",
    )
    seed = seed_recipe()
    for field in dataclasses.fields(TrainConfig):
        name, default = "--" + field.name.replace("_", "-"), field.default
        theirs = "" if getattr(seed, field.name) == default else f"; seed recipe {getattr(seed, field.name)}"
        text = f"{helps.get(field.name, '')} (default {default}{theirs})".strip()
        kind = type(default)
        if isinstance(default, bool):
            parser.add_argument(name, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text)
        elif field.name == "unfreeze":
            parser.add_argument(name, type=_blocks, default=argparse.SUPPRESS, metavar="all|N", help=text)
        elif field.name in _CHOICES:
            parser.add_argument(name, choices=_CHOICES[field.name], default=argparse.SUPPRESS, help=text)
        else:
            parser.add_argument(name, type=kind, default=argparse.SUPPRESS, metavar=kind.__name__.upper(), help=text)


def _blocks(text: str) -> int | Literal["all"]:
    return "all" if text == "all" else int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; expected a number from 1 to 65535")
    return int(text)


# --- the journeys ------------------------------------------------------------------------------------------------------


def _source(options: argparse.Namespace) -> finding.Source:
    """The data set of a command, its zip unpacked, its layouts decided."""
    path: Path = options.data
    if path.is_file() and path.suffix.lower() == ".zip":
        path = import_zip(path, runs.workspace() / "data", path.name)
    source = finding.find_source(path)
    wanted = getattr(options, "file_column", None)
    if wanted is not None:
        source = finding.with_file_column(source, wanted)
    return finding.with_layouts(source)


def _load(options: argparse.Namespace, seed: int = 0, test_share: float = 0.2) -> datasets.DataSet:
    from panorama.terminal import Bar

    source = _source(options)
    with Bar("Reading pictures", "images") as bar:
        return datasets.load(source, runs.workspace(), seed=seed, test_share=test_share, on_progress=bar.set)


def _check(options: argparse.Namespace) -> int:
    data = _load(options)
    n_train, n_test = len(data.indices("train")), len(data.indices("test"))
    n_images, n_labels = counted(len(data.images), "image"), counted(len(data.labels), "label")
    print(f"{data.source.root}: {n_images} ({n_train:,} train, {n_test:,} test), {n_labels}")
    for part in data.parts:
        header = part.sheet.table.header
        layout = part.source.layout
        assert layout is not None
        how = "one column a label" if layout.tag_column is None else f"tags in column {header[layout.tag_column]!r}"
        print(f"{part.source.file}: file names in column {header[layout.file_column]!r}, {how}")
    if data.source.csvs[0].split is None:
        print("split: made by panorama, stratified by label combination (seed 0)")
    width = max(len(label) for label in data.labels)
    for k, label in enumerate(data.labels):
        positives = int(data.targets[:, k].sum())
        print(f"  {label:<{width}}  {positives:>7,} of {len(data.images):,} ({positives / len(data.images):.1%})")
    for problem in data.problems:
        print(f"{problem.severity}: {problem}")
    if data.n_left_out:
        print(f"{counted(data.n_left_out, 'image')} left out; the others can be used.")
    return 0


def _train(options: argparse.Namespace) -> int:
    from panorama import processes

    team = processes.join()
    if not team.is_first:
        return _help(team)
    given = {name: value for name, value in vars(options).items() if name in TrainConfig.__dataclass_fields__}
    from_random = given.get("weights") == "none" and options.recipe is None
    config = dataclasses.replace(seed_recipe() if options.recipe == "seed" or from_random else TrainConfig(), **given)
    if config.weights not in NAMED_WEIGHTS:
        path = Path(config.weights).expanduser().resolve()
        if not path.is_file():
            raise PanoramaError(
                f"{config.weights}: there is no such weights file. Give a file of weights (.pth, .pt or .safetensors), imagenet, starter or none."
            )
        config = dataclasses.replace(config, weights=str(path))
    if options.out is not None:
        runs.refuse_used_folder(options.out)
    from panorama.model import refuse_other_than_starter, refuse_unknown

    refuse_unknown(config.backbone)
    if config.weights == "starter":
        refuse_other_than_starter(config.backbone)
    data = _load(options, config.seed, config.test_share)
    for problem in data.problems:
        if problem.severity != "note":
            print(f"{problem.severity}: {problem}", file=sys.stderr)
    run = runs.create(data, config, runs.workspace(), folder=options.out)
    team.from_first(run.folder)
    _work(run)
    print(run.folder)
    return 0


def _help(team: "Team") -> int:
    """A process that is not the first: it computes its share of the run that the first one made, and says nothing."""
    from panorama import worker

    try:
        folder = team.from_first(None)
    except RuntimeError:  # the first ended before it made a run, and says why
        return 1
    return 1 if worker.run(folder) == "failed" else 0


def _work(run: Run) -> None:
    """Trains in this process, showing progress, and prints how it ended."""
    from panorama import worker
    from panorama.terminal import Progress

    (run.folder / "stop").unlink(missing_ok=True)
    with Progress() as shown:
        status = worker.run(run.folder, shown)
    message = run.history().message
    if status == "failed":
        raise PanoramaError(message)
    if status == "stopped":
        print(f"{message} python -m panorama resume {run.folder}")
    else:
        _print_metrics(run)


def _print_metrics(run: Run) -> None:
    values = run.metrics() or {}
    test = values.get("test", {})
    print(f"test split, {counted(test.get('images', 0), 'image')} the training did not see:")
    for name, value in (("mAP", test["macro"]["average_precision"]), ("F1", test["macro"]["f1"]),
                        ("subset accuracy", test["subset_accuracy"]), ("Hamming loss", test["hamming_loss"])):  # fmt: skip
        print(f"  {name:<16}{_figure(value)}")
    for label, found in test["labels"].items():
        print(f"  {label}: average precision {_figure(found['average_precision'])}, F1 {_figure(found['f1'])}")


def _figure(value: float | None) -> str:
    return "not measurable" if value is None else f"{value:.3f}"


def _resume(options: argparse.Namespace) -> int:
    run = Run(options.run_dir.expanduser().resolve())
    from panorama import processes, worker

    team = processes.join()
    complete = team.from_first(run.state() == "complete")
    if not team.is_first:
        return 1 if not complete and worker.run(run.folder) == "failed" else 0
    if complete:
        print(f"{run.id} is complete; there is nothing to resume.")
    else:
        _work(run)
    print(run.folder)
    return 0


def _stop(options: argparse.Namespace) -> int:
    run = Run(options.run_dir.expanduser().resolve())
    _ = run.config
    if not runs.is_running(run):
        raise PanoramaError(f"{run.id} is not training now.")
    run.ask_to_stop()
    print(f"Asked {run.id} to stop. It can be resumed: python -m panorama resume {run.folder}")
    return 0


def _runs(_: argparse.Namespace) -> int:
    found = runs.list_runs(runs.workspace())
    if not found:
        print(f"No runs in {runs.workspace()} yet. Start one: python -m panorama train DATA")
    for run in found:
        metrics = run.metrics()
        quality = f"test mAP {_figure(metrics['test']['macro']['average_precision'])}" if metrics else ""
        print(f"{run.id}  {run.state():<11}  {run.source.name}  {run.config.backbone}  {quality}".rstrip())
    return 0


def _suspects(options: argparse.Namespace) -> int:
    run = Run(options.run_dir.expanduser().resolve())
    _ = run.config
    path = run.folder / "suspects.csv"
    if not path.is_file():
        raise PanoramaError(
            f"{run.id} has no suspects yet: it is {run.state()}. Let it finish: python -m panorama resume {run.folder}"
        )
    header, rows = _suspect_images(run, options.kind) if options.images else _suspect_cells(path, options.kind)
    if options.out is None:
        print(csv_text([header, *rows[:20]]).encode(errors="replace").decode(), end="")
        return 0
    _refuse_out(options.out, run)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    if options.images or options.kind:
        runs.write_rows(options.out, header, rows)
    else:
        options.out.write_bytes(path.read_bytes())
    print(f"{options.out}: {counted(len(rows), 'image' if options.images else 'cell')}, most doubtful first.")
    return 0


def _suspect_cells(path: Path, kind: str | None) -> tuple[list[str], list[list[str]]]:
    """The rows of suspects.csv, all columns; those of one kind, where one is wanted."""
    header, rows = runs.read_rows(path)
    if kind is None:
        return header, rows
    if "kind" not in header:
        raise PanoramaError(f"{path}: damaged; expected a column kind. Resume the run, or start a new one.")
    column = header.index("kind")
    return header, [row for row in rows if row[column] == kind]


def _suspect_images(run: Run, kind: str | None) -> tuple[list[str], list[list[str]]]:
    """One row an image with a cell of that kind, the likeliest to have an error first: its worst cell, then the image as a whole."""
    queue = open_queue(run)
    chosen = np.arange(len(queue.doubts)) if kind is None else np.flatnonzero(queue.given == (kind == "extra"))
    worst, whole = queue.by_whole_image(chosen)
    order = [row for row in np.argsort(-whole, kind="stable").tolist() if worst[row] >= 0]
    rows = []
    for row in order:
        cell = int(worst[row])
        worst_kind = "extra" if queue.given[cell] else "missing"
        rows.append([queue.images[row], queue.splits[row], queue.labels[queue.label_of[cell]], worst_kind,
                     f"{queue.doubts[cell]:.6g}", f"{whole[row]:.6g}"])  # fmt: skip
    return ["image", "split", "worst_label", "kind", "worst_cell", "whole_image"], rows


def _predict(options: argparse.Namespace) -> int:
    from panorama import bulk, hardware, processes
    from panorama.prediction import Predictor
    from panorama.terminal import Bar

    run = Run(options.run_dir.expanduser().resolve())
    _ = run.config
    if options.out is not None:
        _refuse_out(options.out, run)
    hardware.keep_memory()
    team = processes.join()
    sources = team.from_first(_pictures(options.pictures) if team.is_first else None)
    predictor = Predictor.load(run.folder)
    header = ["image", *predictor.labels]
    unread = 0

    def left_out(problem: str) -> None:
        nonlocal unread
        unread += 1
        print(f"panorama: {problem} It is left out.", file=sys.stderr)

    if options.out is None:
        for number, block in enumerate(bulk.answers(predictor, sources, team)):
            rows = list(bulk.answered(iter(block), left_out))
            if team.is_first:
                print(csv_text([header, *rows] if number == 0 else rows), end="", flush=True)
        processes.leave()
    else:
        unfinished = bulk.Unfinished(options.out, predictor.sha256, sources)
        with unfinished.alone() if team.is_first else nullcontext(), Bar("Predicting", "images") as bar:
            done = team.from_first(unfinished.count() if team.is_first else 0)
            for block in bulk.answers(predictor, sources, team, skip=done):
                if team.is_first:
                    unfinished.append(block)
                    done += len(block)
                    bar.set(done, len(sources))
            processes.leave()
            if not team.is_first:
                return 0
            runs.write_rows(options.out, header, bulk.answered(unfinished.rows(), left_out))
            unfinished.path.unlink()
    if team.is_first and unread == len(sources):
        raise PanoramaError(f"None of {counted(len(sources), 'picture')} could be read.")
    if options.out is not None:
        left = f"; {unread:,} left out" if unread else ""
        print(f"{options.out}: {counted(len(sources) - unread, 'image')}{left}.")
    return 0


def _refuse_out(out: Path, run: Run) -> None:
    if out.is_dir():
        raise PanoramaError(f"{out}: a folder. Give the name of the file to write.")
    if run.folder in out.expanduser().resolve().parents:
        raise PanoramaError(f"{out}: inside the run folder, whose files are not overwritten. Choose another place.")


def _onnx(options: argparse.Namespace) -> int:
    from panorama.onnx import export

    run = Run(options.run_dir.expanduser().resolve())
    _ = run.config
    export(run.folder, options.out)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB; its metadata says what to put in and what comes out.")
    return 0


def _cache(options: argparse.Namespace) -> int:
    folder = runs.workspace() / "cache"
    if options.clear:
        print(f"{folder}: cleared {cache.clear(folder) / 1e9:.2f} GB.")
    print(f"{folder}: {cache.size(folder) / 1e9:.2f} GB of at most {cache.limit(folder) / 1e9:.1f} GB (PANORAMA_CACHE_GB).")
    return 0


def _pictures(given: Sequence[Path]) -> list[tuple[str, Path]]:
    """(name, file): below a folder the path inside it, else the file's name; whole paths where names would collide."""
    found: list[tuple[str, Path]] = []
    for path in given:
        if path.is_dir():
            files = finding.PictureIndex(path).files
            if not files:
                raise PanoramaError(f"{path}: there is no picture in this folder.")
            found += [(name, path / name) for name in files]
        elif path.exists():
            found.append((path.name, path))
        else:
            raise PanoramaError(f"{path}: there is no such picture or folder.")
    names = [name for name, _ in found]
    if len(set(names)) < len(names):
        return [(str(path), path) for _, path in found]
    return list(found)


def _export(options: argparse.Namespace) -> int:
    try:
        decisions = read_decisions(options.decisions.read_bytes(), options.decisions.name)
    except FileNotFoundError:
        raise PanoramaError(
            f"{options.decisions}: there is no such file. Expected a CSV with the columns image, label, value."
        ) from None
    path: Path = options.data
    if path.is_file() and path.suffix.lower() == ".zip":
        path = import_zip(path, runs.workspace() / "data", path.name)
    source = finding.find_source(path)
    if decisions:
        parts = datasets.sheet_parts(source, decided={image for image, _ in decisions})
        written = datasets.write_corrected(parts, source.root, decisions, options.out)
    else:
        written = datasets.write_unchanged(source, options.out)
    for file in written:
        print(file)
    return 0


def _report(options: argparse.Namespace) -> int:
    from panorama.report import gather, read
    from panorama.report_html import render
    from panorama.reviews import ReviewStore

    run = Run(options.run_dir.expanduser().resolve())
    _ = run.config
    _refuse_out(options.out, run)
    queue = open_queue(run) if run.has("suspects.csv") else None
    fold = ReviewStore(runs.workspace() / "reviews.sqlite").fold(run.fingerprint)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out, render(gather(run, read(run), queue, fold), run))
    print(options.out)
    return 0


def _effect(options: argparse.Namespace) -> int:
    from panorama import effect
    from panorama.reviews import ReviewStore

    old = Run(options.run_dir.expanduser().resolve())
    _ = old.config
    home = runs.workspace()
    store = ReviewStore(home / "reviews.sqlite")
    fold, corrections = store.fold(old.fingerprint), store.corrections(old.fingerprint)
    new = effect.retrain_run(old, corrections, home, decisions_up_to=fold.last_id)
    _work(new)
    if new.has("metrics.json"):
        found = effect.compare(old, new, fold.standing)
        print(f"{found.verdict}\n{found.verdict_of_the_others}")
        for target in found.targets:
            print(f"{target.title}: {target.measured_on if target.figures else target.missing}")
            for figure in target.figures:
                told = f"{figure.old.words()} -> {figure.new.words()}, {figure.difference.words('+')}: {figure.verdict}"
                print(f"  {figure.name}: {told}")
            if target.figures:
                print(f"  It can show {target.can}\n  It cannot show {target.cannot}")
    print(new.folder)
    return 0


def _demo(options: argparse.Namespace) -> int:
    from panorama.demo import draw_demo
    from panorama.terminal import Bar

    home = runs.workspace()
    folder = (options.folder or home / "demo").expanduser().resolve()
    with Bar("Drawing pictures", "images") as bar:
        data_folder = draw_demo(folder, n_images=options.images, seed=options.seed, on_progress=bar.set)
    source = finding.with_layouts(finding.find_source(data_folder))
    with Bar("Reading pictures", "images") as bar:
        data = datasets.load(source, home, on_progress=bar.set)
    run = runs.create(data, demo_config(options.seed), home)
    _work(run)
    if not run.has("suspects.csv"):
        print(run.folder)
        return 0
    _, planted_rows = runs.read_rows(folder / "planted.csv")
    planted = {(row[0], row[1]): int(row[3]) for row in planted_rows}
    _, suspects = runs.read_rows(run.folder / "suspects.csv")
    depth = round(1.5 * len(planted))
    looked_at = [(row[0], row[2]) for row in suspects[:depth]]
    found = [cell for cell in looked_at if cell in planted]
    print(f"{len(found)} of the {len(planted)} planted label errors stand among the first {depth} suspects.")
    decisions = folder / "decisions.csv"
    runs.write_rows(decisions, ["image", "label", "value"], [(image, label, planted[image, label]) for image, label in found])
    written = datasets.write_corrected(data.parts, source.root, {cell: planted[cell] for cell in found}, folder / "corrected")
    print(
        f"A reviewer who decides those rightly (here: the truth) gets the corrected CSVs: {', '.join(str(file) for file in written)}"
    )
    print(run.folder)
    return 0


def _serve(options: argparse.Namespace) -> int:
    command = [sys.executable, "-m", "streamlit", "run", "streamlit_app.py", "--server.address", "127.0.0.1", "--server.port", str(options.port),
               "--browser.gatherUsageStats", "false", "--server.fileWatcherType", "none"]  # fmt: skip
    environment = os.environ | {"PANORAMA_HOME": str(runs.workspace())}  # the default is relative to where the command was given
    os.chdir(_PROJECT)
    if os.name == "posix":
        os.execve(sys.executable, command, environment)  # the server takes this process over: whoever stops it, stops the server
    try:
        return subprocess.call(command, env=environment)
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
