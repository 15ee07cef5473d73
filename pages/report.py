"""What a colleague should know: the data's health, the model's figures and curves, what people decided; and all of it as one file."""

from functools import partial

import pandas as pd
import streamlit as st

from panorama import charts, report, runs, ui
from panorama.csvscan import counted
from panorama.errors import PanoramaError
from panorama.report import Curves, LabelCurve, figure
from panorama.report_html import render

ui.ensure_entrypoint()

st.title("Report")
run = ui.choose_run(needs="metrics.json")
try:
    queue = ui.review_queue(run) if run.has("suspects.csv") else None
    fold = ui.review_store(runs.workspace()).fold(run.fingerprint)
    found = report.gather(run, ui.report_data(run), queue, fold)
except PanoramaError as error:
    ui.show_error(error)
    st.stop()
health, people, measured = found.health, found.people, found.measured
test = measured["test"]

left, right = st.columns([3, 1], vertical_alignment="bottom")
left.markdown("  \n".join(f"{ui.text(name)}: **{ui.text(value)}**" for name, value in found.facts))
right.download_button(
    "Download the report (HTML)", partial(render, found, run), f"report-{run.id}.html", "text/html", key="download-report", type="primary",
    on_click="ignore", help="One file for a colleague: charts and pictures inside, no request to anywhere.",
)  # fmt: skip

st.subheader("On the test split")
st.caption(f"{found.test.measured_on}; a probability over {test['threshold']:g} counts as predicted.")
ui.facts(
    ("Mean average precision", figure(test["macro"]["average_precision"]), "area under the precision-recall curves"),
    ("F1 (macro)", figure(test["macro"]["f1"]), "precision and recall in one"),
    ("Subset accuracy", figure(test["subset_accuracy"]), "share of images with every label right"),
    ("Hamming loss", figure(test["hamming_loss"]), "share of wrong values"),
)
before = measured["before_training"].get("test")
scores = [
    {"label": label, "when": when, "average_precision": values["labels"][label]["average_precision"]}
    for when, values in (("before", before), ("after", test)) if values
    for label in test["labels"] if values["labels"][label]["average_precision"] is not None
]  # fmt: skip
if scores:
    st.altair_chart(charts.label_scores(scores), key="label-scores")
parts = [
    ("test", "test split", "decided nothing about the model"),
    ("validation", "validation part", "decided early stopping, the best epoch and thresholds"),
    ("train", "training part", "trained on: not evidence"),
    ("out_of_fold", "all images, out of fold", "other models, which never saw the image; what suspects are ranked by"),
]
table = [
    {
        "measured on": name, "images": measured[key]["images"], "mAP": figure(measured[key]["macro"]["average_precision"]),
        "F1": figure(measured[key]["macro"]["f1"]), "Hamming loss": figure(measured[key]["hamming_loss"]), "what they are": what,
    }
    for key, name, what in parts
]  # fmt: skip
st.dataframe(pd.DataFrame(table), hide_index=True, key="parts")
with st.expander("How it learned"):
    st.altair_chart(charts.loss_curves(run.history()), key="loss-curves")


def line(curve: LabelCurve) -> charts.LabelLine:
    """What the chart draws of a curve."""
    return None if curve.recall is None or curve.precision is None else (curve.recall.tolist(), curve.precision.tolist())


def each_label(on_test: Curves, folds: Curves) -> None:
    """A table of all labels, and the curves of one."""
    rows = [
        {
            "label": c.label, "positives": c.positives, "average precision": figure(c.average_precision), "out of fold": figure(f.average_precision),
            "threshold": figure(c.threshold), "precision there": figure(c.point[1] if c.point else None),
            "recall there": figure(c.point[0] if c.point else None), "calibration error": figure(c.calibration.error if c.calibration else None),
        }
        for c, f in zip(on_test.labels, folds.labels, strict=True)
    ]  # fmt: skip
    st.dataframe(pd.DataFrame(rows), hide_index=True, key="per-label")
    st.caption(
        f"Measured on {on_test.measured_on}; “out of fold” on {folds.measured_on}. Threshold: the one with the highest F1 on the validation part, for your own use."
    )
    label = st.selectbox("Curves of", [c.label for c in on_test.labels], key="curve-label")
    c, f = next((c, f) for c, f in zip(on_test.labels, folds.labels, strict=True) if c.label == label)
    curve, reliability = st.container(key="charts").columns(2)
    with curve:
        st.markdown("**Precision and recall**")
        if line(c) is None and line(f) is None:
            st.write("No image carries this label, so there is nothing to draw.")
        else:
            st.altair_chart(charts.precision_recall(line(c), line(f), c.point, height=300), key="precision-recall")
            st.caption("The ring is the threshold, on the test split." if c.point else "No threshold could be measured.")
    with reliability:
        st.markdown("**Can its probabilities be believed?**")
        if c.calibration is None:
            st.write("There is no test image to measure it on.")
        else:
            bins = [{"said": b.said, "carried": b.carried, "cells": b.cells} for b in c.calibration.bins]
            st.altair_chart(charts.reliability(bins), key="reliability")
            st.caption("On the dashed line a probability of 0.8 means that 80 % are yes. A larger dot: more test images.")


st.subheader("Each label")
each_label(found.test, found.out_of_fold)
if found.test.calibration is not None:
    st.write(
        f"Over all labels, probabilities are off by **{found.test.calibration.error:.3f}** on average (expected calibration error, ten bins, test split)."
    )

st.subheader("How many errors are there?")
if health.errors is None or health.in_all is None:
    st.write("This run was made by an older version, whose doubts order cells but do not count errors. Train again to see it.")
else:
    expected, low, high = health.in_all
    n_found = sum(health.found.values())
    st.write(f"About **{expected:,.0f}** errors in all ({low:,.0f} to {high:,.0f}), {n_found:,} of them found so far.")
    rows = [
        {
            "label": c.label, "kind": c.kind, "expected": f"{c.expected:,.1f}", "range": f"{c.low:,.0f} to {c.high:,.0f}",
            "found so far": health.found.get((c.label, c.kind), 0),
        }
        for c in health.errors
    ]  # fmt: skip
    st.dataframe(pd.DataFrame(rows), hide_index=True, key="errors")
    st.caption(
        "Slips can be counted from the CSV alone. Errors on hard pictures cannot: those among undecided cells are expected as people found them in audited photos, and the range goes from a tenth to twice as many."
    )

st.subheader("What was corrected")
if not (fold.standing or fold.conflicts):
    st.write("Nothing is decided yet on these CSVs.")
    if run.has("suspects.csv"):
        ui.page_link("review", "Review the suspects →")
else:
    st.write(f"{counted(people.changed, 'cell')} changed, {people.kept:,} looked at and kept.")
    if people.conflicts:
        st.write(
            f"{counted(people.conflicts, 'cell')} in conflict: reviewers disagree, and nobody has settled it. They count as undecided."
        )
    for a in people.agreements:
        who = ui.text(f"{a.first or 'no name'} and {a.second or 'no name'}")
        kappa = "" if a.kappa is None else f"; Cohen's kappa, the agreement beyond chance, {a.kappa:.2f}"
        st.write(f"{who} agree on {a.agreed:,} of {counted(a.cells, 'cell')} that both decided{kappa}.")
    if people.control:
        st.write(
            f"Of {counted(people.control.n, 'cell')} that nobody suspected, mixed in at random, {people.control.changed:,} changed: "
            f"{people.control.share:.1%} (95 % interval {people.control.share_low:.1%} to {people.control.share_high:.1%})."
        )
    if people.corrected:
        rows = [{"label": label, "was": kind, "cells": n} for (label, kind), n in people.corrected.items()]
        st.dataframe(pd.DataFrame(rows), hide_index=True, key="corrected")
        ui.page_link("effect", "See what the corrections changed →")
    if found.corrections:
        st.caption("The most instructive ones: the surest errors, label by label, then what the run had hardly suspected.")
        ui.grid([ui.correction_card(run, c) for c in found.corrections[ui.pager(len(found.corrections), 12, "corrections")]])

st.subheader("The data")
st.write(
    f"{sum(health.images):,} images: {health.images[0]:,} for training, {health.images[1]:,} for validation, {health.images[2]:,} for test. "
    f"{counted(health.left_out, 'image')} left out; {counted(len(health.remarks), 'remark')} on the data. {health.duplicates}"
)
data = ui.report_data(run)
ui.label_charts(data.labels, data.targets, ["test" if s == "test" else "train" for s in data.splits.tolist()])
if health.remarks:
    with st.expander("Remarks"):
        st.html("".join(f'<p class="pn-error">{ui.esc(problem)}</p>' for problem in health.remarks))
