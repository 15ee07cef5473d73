"""The report as one HTML file for a colleague: no script, no request to anywhere, pictures and charts inside, light, dark and on paper."""

import base64
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from panorama.csvscan import counted
from panorama.drawing import Series, esc, plot
from panorama.errors import PanoramaError
from panorama.images import thumbnail_jpeg
from panorama.metrics import Calibration
from panorama.report import SPLITS, Correction, Curves, Health, LabelCurve, People, Report, figure
from panorama.reviewing import too_little
from panorama.runs import Run

_PICTURE_SIDE = 260
_MOST_DRAWN_LABELS = 40  # charts; the tables have every label
_MOST_CROSSED = 30  # labels of the co-occurrence table
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def render(report: Report, run: Run) -> bytes:
    """The whole file, UTF-8. Reads the pictures of the corrections; one that cannot be read is said in words."""
    sections = [
        ("data", "The data", _data(report.health)),
        ("errors", "Label errors", _errors(report.health)),
        ("model", "The model", _model(report)),
        ("curves", "Each label", _labels(report.test, report.out_of_fold)),
        ("calibration", "Can the probabilities be believed?", _calibration(report.test, report.out_of_fold)),
        ("people", "What people decided", _people(report.people)),
        ("corrections", "The most instructive corrections", _corrections(report.corrections, run)),
    ]
    links = "".join(f'<a href="#{name}">{title}</a>' for name, title, _ in sections)
    body = "".join(f'<section id="{name}"><h2>{title}</h2>{content}</section>' for name, title, content in sections)
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="referrer" content="no-referrer">'
        f"<title>Report on {esc(report.title)}</title><style>{_STYLE}</style></head><body><main>"
        f'<h1>Report on {esc(report.title)}</h1>{_facts(report.facts)}<nav aria-label="Sections">{links}</nav>{body}'
        "<footer>Made by panorama. This file asks for nothing from anywhere: pictures and charts are inside.</footer></main></body></html>\n"
    )
    return page.encode("utf-8", "replace")


# --- pieces ------------------------------------------------------------------------------------------------------------


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    return f'<dl class="facts">{"".join(f"<div><dt>{esc(name)}</dt><dd>{esc(value)}</dd></div>" for name, value in facts)}</dl>'


def _table(caption: str, header: Sequence[str], rows: Iterable[Sequence[object]], *, html_columns: Sequence[int] = ()) -> str:
    """The first column names the row. html_columns: those whose cells are HTML already."""
    head = "".join(f'<th scope="col">{esc(name)}</th>' for name in header)
    body = []
    for name, *cells in rows:
        shown = "".join(f"<td>{cell if n in html_columns else esc(cell)}</td>" for n, cell in enumerate(cells, 1))
        body.append(f'<tr><th scope="row">{esc(name)}</th>{shown}</tr>')
    return f'<div class="wide"><table><caption>{esc(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def _note(text: str) -> str:
    return f'<p class="note">{esc(text)}</p>'


def _bar(share: float, number: str) -> str:
    return f'<span class="bar" aria-hidden="true"><i style="width:{100 * share:.1f}%"></i></span>{number}'


# --- sections ----------------------------------------------------------------------------------------------------------


def _data(health: Health) -> str:
    n_images = sum(health.images)
    parts = ", ".join(f"{n:,} {split}" for n, split in zip(health.images, SPLITS, strict=True))
    rows = [
        [
            label,
            *(f"{n:,}" for n in of),
            _bar(int(of.sum()) / max(1, n_images), f"{int(of.sum()):,} ({of.sum() / max(1, n_images):.0%})"),
        ]
        for label, of in zip(health.labels, health.positives, strict=True)
    ]
    said = (
        f"<p>{esc(counted(n_images, 'image'))} ({parts}), {esc(counted(len(health.labels), 'label'))}. "
        f"{esc(counted(health.left_out, 'image'))} left out{', for the reasons in the remarks' if health.left_out else ''}. {esc(health.duplicates)}</p>"
    )
    counts = _table("Images that carry each label, as the CSV says", ["label", *SPLITS, "all images"], rows, html_columns=[4])
    return said + counts + _crossed(health) + _remarks(health.remarks)


def _crossed(health: Health) -> str:
    labels = health.labels[:_MOST_CROSSED]
    if len(labels) < 2:
        return ""
    rows = []
    for i, label in enumerate(labels):
        own = max(1, int(health.together[i, i]))
        shares = [health.together[i, j] / own for j in range(len(labels))]
        rows.append([
            label,
            *(
                '<span class="self">—</span>' if i == j else f'<span class="heat" style="--share:{100 * shares[j]:.0f}%">{int(health.together[i, j]):,}</span>'
                for j in range(len(labels))
            ),
        ])  # fmt: skip
    more = f" The first {_MOST_CROSSED} of {len(health.labels):,} labels." if len(health.labels) > _MOST_CROSSED else ""
    caption = f"Labels together: of the images with the row's label, how many also carry the column's; darker: a larger share of them.{more}"
    return _table(caption, ["images with", *labels], rows, html_columns=range(1, len(labels) + 1))


def _remarks(remarks: Sequence[str]) -> str:
    if not remarks:
        return _note("There are no remarks on the data.")
    items = "".join(f"<li>{esc(remark)}</li>" for remark in remarks)
    return f"<details open><summary>{esc(counted(len(remarks), 'remark'))} on the data</summary><ul>{items}</ul></details>"


def _errors(health: Health) -> str:
    if health.errors is None or health.in_all is None:
        return _note("This run was made by an older version, which does not estimate how many labels are wrong.")
    expected, low, high = health.in_all
    found = sum(health.found.values())
    rows = [
        [c.label, c.kind, f"{c.expected:,.1f}", f"{c.low:,.0f} to {c.high:,.0f}", f"{health.found.get((c.label, c.kind), 0):,}"]
        for c in health.errors
    ]
    about = (
        f"It is unknown how many values of the CSV are wrong; {found:,} were found so far."
        if health.knows_none
        else f"About <b>{expected:,.0f}</b> values of the CSV are wrong ({low:,.0f} to {high:,.0f}), {found:,} of them found so far."
    )
    return (
        f"<p>{about} Missing: the CSV says no, and the label is there. Extra: the CSV says yes, and it is not.</p>"
        + (_note(too_little(health.unlearned)) if health.unlearned else "")
        + _table("Errors in the CSV, on all images", ["label", "kind", "expected in all", "range", "found so far"], rows)
        + _note(
            "Slips can be counted from the CSV alone. Errors on hard pictures cannot: among undecided values they are expected as people found "
            "them in audited photos, and the range goes from a tenth to twice as many."
        )
    )


def _model(report: Report) -> str:
    m = report.measured
    kinds = [
        ("test", "test split", "decided nothing about the model"),
        ("validation", "validation part", "decided early stopping, which epoch is kept, and thresholds"),
        ("train", "training part", "trained on: not evidence"),
        ("out_of_fold", "all images, out of fold", "other models of the same kind, which never saw the image"),
    ]
    rows = [
        [name, f"{m[key]['images']:,}", figure(m[key]["macro"]["average_precision"]), figure(m[key]["macro"]["f1"]),
         figure(m[key]["subset_accuracy"]), figure(m[key]["hamming_loss"]), what]
        for key, name, what in kinds
    ]  # fmt: skip
    header = ["measured on", "images", "mAP", "F1", "subset accuracy", "Hamming loss", "what they are"]
    return (
        _table("The model's figures; the first row is the one to quote", header, rows)
        + _note(
            "mAP: mean over labels of the average precision, the area under the precision-recall curve; 1 is perfect. F1: harmonic mean of precision and recall, "
            f"mean over labels. Subset accuracy: share of images with every label right. Hamming loss: share of wrong values. A probability over {m['test']['threshold']:g} counts as predicted."
        )
        + _losses(report.losses)
    )


def _losses(losses: Sequence[tuple[int, float, float]]) -> str:
    if len(losses) < 2:
        return ""
    epochs = [float(n) for n, _, _ in losses]
    training, validation = [t for _, t, _ in losses], [v for _, _, v in losses]
    drawn = plot(
        [Series("training", epochs, training, "b"), Series("validation", epochs, validation, "a")],
        title="Loss of each epoch on the training and the validation part", x="epoch, both phases", y="loss, lower is better",
        x_range=(1, epochs[-1]), y_range=(0, 1.05 * max(*training, *validation)), size=(640, 260),
    )  # fmt: skip
    return f'<figure class="broad">{drawn}<figcaption>Loss (binary cross entropy) while it learned.</figcaption></figure>'


def _labels(test: Curves, folds: Curves) -> str:
    by_fold = {c.label: c for c in folds.labels}
    rows = []
    for c in test.labels:
        recall, precision = c.point or (None, None)
        rows.append([
            c.label, f"{c.positives:,}", figure(c.average_precision), figure(by_fold[c.label].average_precision), figure(c.threshold),
            figure(precision), figure(recall),
        ])  # fmt: skip
    header = ["label", "positives", "average precision", "out of fold", "threshold", "precision there", "recall there"]
    table = _table(f"Measured on {test.measured_on}; “out of fold” on {folds.measured_on}", header, rows)
    drawn = [_curve(c, by_fold[c.label]) for c in test.labels[:_MOST_DRAWN_LABELS]]
    more = (
        f" The first {_MOST_DRAWN_LABELS} of {len(test.labels):,} labels are drawn."
        if len(test.labels) > _MOST_DRAWN_LABELS
        else ""
    )
    return (
        table
        + _note(
            "Threshold: the one with the highest F1 on the validation part, for your own use. Precision: of the images over it, the share that carry the label. "
            f"Recall: of those that carry it, the share over it.{more}"
        )
        + f'<div class="charts">{"".join(drawn)}</div>'
    )


def _curve(test: LabelCurve, fold: LabelCurve) -> str:
    series = []
    for c, name, kind in ((fold, "out of fold, all images", "b"), (test, "test split", "a")):
        if c.recall is not None and c.precision is not None:
            series.append(Series(name, c.recall.tolist(), c.precision.tolist(), kind))
    if test.point is not None:
        series.append(Series("threshold, test split", [test.point[0]], [test.point[1]], "c", [22.0]))
    if not series:
        what = f'<p class="note">{esc("No image here carries this label, so there is nothing to draw.")}</p>'
    else:
        what = plot(series, title=f"Precision and recall of {test.label}", x="recall", y="precision")
    return f"<figure><figcaption><b>{esc(test.label)}</b> · average precision {figure(test.average_precision)}</figcaption>{what}</figure>"


def _calibration(test: Curves, folds: Curves) -> str:
    if test.calibration is None:
        return _note("There is no test image to measure it on.")
    rows = [[f"{b.low:.1f} to {b.high:.1f}", f"{b.cells:,}", f"{b.said:.3f}", f"{b.carried:.3f}"] for b in test.calibration.bins]
    errors = [
        [c.label, figure(c.calibration.error if c.calibration else None), figure(f.calibration.error if f.calibration else None)]
        for c, f in zip(test.labels, folds.labels, strict=True)
    ]
    return (
        f"<p>Of the values given a probability near 0.8, about 80 % should be yes. On {esc(test.measured_on)}, probabilities are off by "
        f"<b>{test.calibration.error:.3f}</b> on average (expected calibration error, ten bins).</p>"
        + f'<div class="charts">{_reliability(test.calibration, test.measured_on)}</div>'
        + _table(
            f"All labels together, on {test.measured_on}",
            ["probability", "values", "mean probability", "share that is yes"],
            rows,
        )
        + _table("Expected calibration error of each label", ["label", "test split", "out of fold"], errors)
        + _note("Yes and no are as the CSV says, so errors in it count against the model.")
    )


def _reliability(found: Calibration, measured_on: str) -> str:
    most = max(b.cells for b in found.bins)
    sizes = [9 + 60 * b.cells / most for b in found.bins]
    drawn = plot(
        [Series("bins", [b.said for b in found.bins], [b.carried for b in found.bins], "a", sizes)],
        title=f"Mean probability against the share that is yes, on {measured_on}", x="mean probability", y="share that is yes", diagonal=True,
    )  # fmt: skip
    return f"<figure>{drawn}<figcaption>On the dashed line probabilities can be read as shares. A larger dot: more values.</figcaption></figure>"


def _people(people: People) -> str:
    if not (people.changed or people.kept or people.skipped or people.conflicts):
        return _note("Nothing is decided yet on these CSVs.")
    by = f" By {', '.join(name or 'somebody without a name' for name in people.reviewers)}." if people.reviewers else ""
    said = (
        f"{counted(people.changed, 'value')} changed, {people.kept:,} looked at and kept, {people.skipped:,} skipped.{by} "
        + (f"{counted(people.conflicts, 'value')} in conflict: reviewers disagree, and nobody has settled it. They count as undecided." if people.conflicts else "No conflicts.")
    )  # fmt: skip
    parts = [f"<p>{esc(said)}</p>"]
    if people.corrected:
        parts.append(
            _table(
                "Corrections",
                ["label", "was", "values"],
                [[label, kind, f"{n:,}"] for (label, kind), n in people.corrected.items()],
            )
        )
    if people.agreements:
        rows = [
            [
                f"{a.first or 'no name'} and {a.second or 'no name'}",
                f"{a.cells:,}",
                f"{a.agreed:,} ({a.agreed / a.cells:.0%})",
                figure(a.kappa),
            ]
            for a in people.agreements
        ]
        parts.append(_table("Reviewers who decided the same values", ["who", "values", "agreed", "Cohen's kappa"], rows))
        parts.append(_note("Kappa: agreement beyond chance; 1 is full agreement, 0 what chance gives."))
    if people.control:
        c = people.control
        parts.append(_note(
            f"Of {counted(c.n, 'value')} that nobody suspected, drawn at random and mixed in, {c.changed:,} changed: {c.share:.1%} "
            f"(95 % interval {c.share_low:.1%} to {c.share_high:.1%})."
        ))  # fmt: skip
    return "".join(parts)


def _corrections(corrections: Sequence[Correction], run: Run) -> str:
    if not corrections:
        return _note("No value was changed yet, or its picture is not in this run.")
    sure = [_card(c, run) for c in corrections if not c.surprise]
    surprising = [_card(c, run) for c in corrections if c.surprise]
    parts = []
    if sure:
        parts.append(f'<h3>What the run was surest of</h3><div class="cards">{"".join(sure)}</div>')
    if surprising:
        parts.append(
            "<h3>What people changed though the run hardly suspected it</h3>"
            f'<p class="note">A model that looks again may learn most from these.</p><div class="cards">{"".join(surprising)}</div>'
        )
    return "".join(parts)


def _card(c: Correction, run: Run) -> str:
    lines = [f"<b>{esc(c.words)}</b>", f'<span class="name">{esc(c.image)}</span>']
    if c.probability is not None:
        lines.append(f"<span>the run said {c.probability:.2f} out of fold</span>")
    lines.append(f"<span>{esc(c.reviewer or 'no name')}, {esc(c.at)}</span>")
    if c.note:
        lines.append(f"<q>{esc(c.note)}</q>")
    return f'<figure class="card">{_picture(c, run)}<figcaption>{"".join(lines)}</figcaption></figure>'


def _picture(c: Correction, run: Run) -> str:
    with suppress(PanoramaError):
        data = thumbnail_jpeg(run.picture_path(c.path), _PICTURE_SIDE, quality=72)
        return f'<img src="data:image/jpeg;base64,{base64.b64encode(data).decode()}" alt="{esc(c.image)}">'
    return '<p class="note">The picture cannot be read any more.</p>'


_STYLE = (Path(__file__).with_name("report.css")).read_text(encoding="utf-8")
