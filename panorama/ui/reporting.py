"""What the report page draws: the model's figures, each label's curves, how many errors there are, and what people decided."""

import pandas as pd
import streamlit as st

from panorama import charts, ui
from panorama.csvscan import counted
from panorama.report import Curves, Health, LabelCurve, People, Report, figure
from panorama.reviewing import too_little


def quality(found: Report) -> None:
    """The model's figures on the test split, before and after training, and beside them those on the other parts with what they are worth."""
    measured = found.measured
    test = measured["test"]
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
        ("validation", "validation part", "decided early stopping, which epoch is kept, and thresholds"),
        ("train", "training part", "trained on: not evidence"),
        ("out_of_fold", "all images, out of fold", "models that never saw the image; they rank the suspects"),
    ]
    table = [
        {
            "measured on": name, "images": f"{measured[key]['images']:,}", "mAP": figure(measured[key]["macro"]["average_precision"]),
            "F1": figure(measured[key]["macro"]["f1"]), "Hamming loss": figure(measured[key]["hamming_loss"]), "what they are": what,
        }
        for key, name, what in parts
    ]  # fmt: skip
    st.table(pd.DataFrame(table).set_index("measured on"))  # its last column wraps, where a data frame would cut it


def _line(curve: LabelCurve) -> charts.LabelLine:
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
    st.dataframe(pd.DataFrame(rows), hide_index=True, key="per-label", column_config=ui.to_the_right(*list(rows[0])[1:]))
    st.caption(
        f"Measured on {on_test.measured_on}; “out of fold” on {folds.measured_on}. Threshold: the one with the highest F1 on the validation part, for your own use."
    )
    label = st.selectbox("Curves of", [c.label for c in on_test.labels], key="curve-label")
    c, f = next((c, f) for c, f in zip(on_test.labels, folds.labels, strict=True) if c.label == label)
    curve, reliability = st.container(key="charts").columns(2)
    with curve:
        st.markdown("**Precision and recall**")
        if _line(c) is None and _line(f) is None:
            st.write("No image carries this label, so there is nothing to draw.")
        else:
            st.altair_chart(charts.precision_recall(_line(c), _line(f), c.point, height=300), key="precision-recall")
            st.caption("The ring is the threshold, on the test split." if c.point else "No threshold could be measured.")
    with reliability:
        st.markdown("**Can its probabilities be believed?**")
        if c.calibration is None:
            st.write("There is no test image to measure it on.")
        else:
            bins = [{"said": b.said, "carried": b.carried, "cells": b.cells} for b in c.calibration.bins]
            st.altair_chart(charts.reliability(bins), key="reliability")
            st.caption("On the dashed line a probability of 0.8 means that 80 % are yes. A larger dot: more test images.")


def errors(health: Health) -> None:
    """How many errors there are by estimate, and how many were found."""
    if health.errors is None or health.in_all is None:
        st.write(
            "This run was made by an older version, whose doubts order cells but do not count errors. Train again to see it. "
            + ui.CELL
        )
    else:
        expected, low, high = health.in_all
        n_found = sum(health.found.values())
        about = f"About **{expected:,.0f}** {'error' if round(expected) == 1 else 'errors'} in all ({low:,.0f} to {high:,.0f}), {n_found:,} of them found so far."
        st.write(f"Errors in all: unknown, {n_found:,} found so far." if health.knows_none else about)
        if health.unlearned:
            st.write(too_little(health.unlearned, ui.text))
        rows = [
            {
                "label": c.label, "kind": c.kind, "expected": f"{c.expected:,.1f}", "range": f"{c.low:,.0f} to {c.high:,.0f}",
                "found so far": health.found.get((c.label, c.kind), 0),
            }
            for c in health.errors
        ]  # fmt: skip
        st.dataframe(
            pd.DataFrame(rows), hide_index=True, key="errors", column_config=ui.to_the_right("expected", "range", "found so far")
        )
        st.caption(
            f"{ui.CELL} Slips can be counted from the CSV alone. Errors on hard pictures cannot: those among undecided cells are expected as people found them in audited photos, and the range goes from a tenth to twice as many."
        )


def people(found: People) -> None:
    """What was decided, who agrees with whom, what the controls say, and the corrected cells by label."""
    st.write(f"{counted(found.changed, 'cell')} changed, {found.kept:,} looked at and kept.")
    if found.conflicts:
        st.write(
            f"{counted(found.conflicts, 'cell')} in conflict: reviewers disagree, and nobody has settled it. They count as undecided."
        )
    for a in found.agreements:
        who = ui.text(f"{a.first or 'no name'} and {a.second or 'no name'}")
        kappa = "" if a.kappa is None else f"; Cohen's kappa, the agreement beyond chance, {a.kappa:.2f}"
        st.write(f"{who} agree on {a.agreed:,} of {counted(a.cells, 'cell')} that both decided{kappa}.")
    if found.control:
        st.write(
            f"Of {counted(found.control.n, 'cell')} that nobody suspected, mixed in at random, {found.control.changed:,} changed: "
            f"{found.control.share:.1%} (95 % interval {found.control.share_low:.1%} to {found.control.share_high:.1%})."
        )
    if found.corrected:
        rows = [{"label": label, "was": kind, "cells": n} for (label, kind), n in found.corrected.items()]
        st.dataframe(pd.DataFrame(rows), hide_index=True, key="corrected")
