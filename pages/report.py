"""What the run measured, on which images, and what people corrected."""

from collections import Counter
from pathlib import Path

import pandas as pd
import streamlit as st

from panorama import charts, runs, ui
from panorama.csvscan import counted
from panorama.errors import PanoramaError
from panorama.reviewing import in_all

ui.ensure_entrypoint()

st.title("Report")
run = ui.choose_run(needs="metrics.json")
metrics = run.metrics()
if metrics is None:
    st.error("The metrics of this run cannot be read.")
    st.stop()


def figure(value: float | None) -> str:
    """A number for people; None is what could not be measured."""
    return "not measurable" if value is None else f"{value:.3f}"


h = run.history()
test = metrics["test"]
best = metrics["best"]
start = {"none": "random", "imagenet": "ImageNet"}.get(run.config.weights, Path(run.config.weights).name)
st.write(
    f"{ui.text(run.config.backbone)}, {ui.text(start)} weights, seed {run.config.seed}, "
    f"on {ui.text(run.source.name)}; best epoch: {best['epoch']} of {best['phase']}; "
    f"took {ui.duration((h.last_at or 0) - (h.started_at or 0))}."
)
st.subheader("On the test split")
st.caption(
    f"{counted(test['images'], 'image')} that decided nothing about the model; a probability over {test['threshold']:g} counts as predicted."
)
ui.facts(
    ("Mean average precision", figure(test["macro"]["average_precision"])),
    ("F1 (macro)", figure(test["macro"]["f1"])),
    ("Subset accuracy", figure(test["subset_accuracy"]), "share of images with every label right"),
    ("Hamming loss", figure(test["hamming_loss"]), "share of wrong cells"),
)

before = metrics["before_training"].get("test")
rows = [
    {"label": label, "when": when, "average_precision": values["labels"][label]["average_precision"]}
    for when, values in (("before", before), ("after", test)) if values
    for label in test["labels"] if values["labels"][label]["average_precision"] is not None
]  # fmt: skip
left, right = st.columns([2, 3])
with left:
    if rows:
        st.altair_chart(charts.label_scores(rows), key="label-scores")
with right:
    table = pd.DataFrame(
        [
            {
                "label": label, "positives": v["positives"], "predicted": v["predicted"], "average precision": figure(v["average_precision"]),
                "F1": figure(v["f1"]), "precision": figure(v["precision"]), "recall": figure(v["recall"]),
                "threshold*": figure(metrics["thresholds_from_validation"].get(label)),
            }
            for label, v in test["labels"].items()
        ]
    )  # fmt: skip
    st.dataframe(table, hide_index=True, key="per-label")
    st.caption(
        "\\* The threshold with the highest F1 on the validation part, for your own use; nothing here is measured with it."
    )

st.subheader("The same on other images")
parts = [
    ("test", "decided nothing"),
    ("validation", "decided early stopping and the best epoch"),
    ("train", "trained on: not evidence"),
    ("out_of_fold", "all images, by models that never saw them; what suspects are ranked by"),
]
st.dataframe(
    pd.DataFrame(
        [
            {
                "measured on": name.replace("_", " "), "images": metrics[name]["images"], "mAP": figure(metrics[name]["macro"]["average_precision"]),
                "F1": figure(metrics[name]["macro"]["f1"]), "Hamming loss": figure(metrics[name]["hamming_loss"]), "what they are": what,
            }
            for name, what in parts
        ]
    ),
    hide_index=True, key="parts",
)  # fmt: skip
st.altair_chart(charts.loss_curves(h), key="loss-curves")

try:
    standing = ui.review_store(runs.workspace()).current(run.fingerprint)
    queue = ui.review_queue(run) if run.has("suspects.csv") else None
except PanoramaError as error:
    ui.show_error(error)
    st.stop()

st.subheader("How many errors are there?")
if queue is None or not queue.has_evidence:
    st.write("This run was made by an older version, whose doubts order cells but do not count errors. Train again to see it.")
else:
    counts, found = queue.errors(standing, queue.learned(standing)), queue.found(standing)
    expected, low, high = in_all(counts)
    st.write(
        f"About **{expected:,.0f}** errors in all ({low:,.0f} to {high:,.0f}), {sum(found.values()):,} of them found so far."
    )
    st.dataframe(
        pd.DataFrame(
            [
                {
                    "label": c.label, "kind": c.kind, "expected": f"{c.expected:,.1f}", "range": f"{c.low:,.0f} to {c.high:,.0f}",
                    "found so far": found.get((c.label, c.kind), 0),
                }
                for c in counts
            ]
        ),
        hide_index=True, key="errors",
    )  # fmt: skip
    st.caption(
        "Slips can be counted from the CSV alone. Errors on hard pictures cannot: those among undecided cells are expected as people found them in audited photos, and the range goes from a tenth to twice as many."
    )

st.subheader("What was corrected")
changes = [d for d in standing.values() if d.verdict == "change"]
kept = sum(d.verdict == "keep" for d in standing.values())
if not standing:
    st.write("Nothing is decided yet on these CSVs.")
    if run.has("suspects.csv"):
        ui.page_link("review", "Review the suspects →")
else:
    st.write(f"{counted(len(changes), 'cell')} changed, {kept:,} looked at and kept.")
    kinds = Counter((d.label, "missing" if d.given == 0 else "extra") for d in changes)
    if kinds:
        st.dataframe(
            pd.DataFrame([{"label": label, "was": kind, "cells": n} for (label, kind), n in kinds.most_common()]), hide_index=True, key="corrected",
        )  # fmt: skip
        images, _, paths = run.images()
        path_of = dict(zip(images, paths, strict=True))
        surest = sorted((d for d in changes if d.image in path_of), key=lambda d: -(d.doubt or 0))
        cards = [
            f'<div class="pn-card">{ui.run_picture_html(run, path_of[d.image], 480, d.image)}<div class="pn-body">'
            f'<div class="pn-name">{ui.esc(d.image)}</div>{ui.esc(d.label)}: {"no → yes" if d.given == 0 else "yes → no"}</div></div>'
            for d in surest[ui.pager(len(surest), 12, "corrections")]
        ]
        ui.grid(cards)

left_out, problems = run.problems()
st.subheader("The data")
st.write(f"{counted(left_out, 'image')} left out; {counted(len(problems), 'remark')} on the data.")
if problems:
    with st.expander("Remarks"):
        st.html("".join(f'<p class="pn-error">{ui.esc(problem)}</p>' for problem in problems))
