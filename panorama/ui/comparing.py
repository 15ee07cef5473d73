"""What the effect page draws of a comparison: old and new side by side, each target with what it can and cannot show, and each label."""

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from panorama import charts, ui
from panorama.bootstrap import rounded
from panorama.effect import Comparison, LabelScore, Target


def side_by_side(found: Comparison) -> None:
    """Old and new, and beside them new minus old, by the first figure of each target; how the intervals were made below."""
    shown = [(t, t.figures[0]) for t in (found.original, found.corrected, found.verified) if t.figures]
    left, right = st.container(key="charts").columns([3, 2])
    rows = [
        {"target": f"{t.title}: {f.name}", "run": name, "value": e.value, "low": e.low, "high": e.high, "text": f"{name} {e.words()}"}
        for t, f in shown for name, e in (("old", f.old), ("new", f.new))
    ]  # fmt: skip
    left.altair_chart(charts.old_and_new(rows), key="old-and-new")
    gaps = [
        {"target": f"{t.title}: {f.difference.words('+')}", "value": f.difference.value, "low": f.difference.low, "high": f.difference.high}
        for t, f in shown
    ]  # fmt: skip
    right.altair_chart(charts.differences(gaps), key="differences")
    st.caption(
        f"Intervals: 95 %, from {found.resamples:,} draws of whole images with replacement; the same draw judges old and new, and near-duplicates that "
        "the run found are drawn together. They say how far the figures would move with other images of the kind, not with another seed: old and new "
        "are one training each."
    )


def target(shown: Target) -> None:
    """One target: its figures, and what they can and cannot prove."""
    st.subheader(shown.title)
    if not shown.figures:
        st.write(shown.missing)
        return
    st.caption(f"Measured on {shown.measured_on}.")
    rows = [
        {
            "measure": f.name + ("" if f.higher_is_better else ", lower is better"), "old": f.old.words(), "new": f.new.words(),
            "new minus old": f.difference.words("+"), "the new run is": f.verdict,
        }
        for f in shown.figures
    ]  # fmt: skip
    st.table(pd.DataFrame(rows).set_index("measure"))
    st.markdown(f"**It can show** {shown.can}  \n**It cannot show** {shown.cannot}")


def labels(scores: Sequence[LabelScore]) -> None:
    """Each label's average precision on the test split against the corrected labels."""
    st.subheader("Each label, on the test split against the corrected labels")
    rows = [
        {
            "label": s.label, "positives": s.positives, "cells corrected (all splits)": s.corrected,
            "average precision, old": "not measurable" if s.old is None else f"{s.old:.3f}",
            "average precision, new": "not measurable" if s.new is None else f"{s.new:.3f}",
            "new minus old": "—" if s.old is None or s.new is None else rounded(s.new - s.old, "+"),
        }
        for s in scores
    ]  # fmt: skip
    st.dataframe(
        pd.DataFrame(rows), hide_index=True, key="labels", column_config=ui.to_the_right(*list(rows[0])[1:] if rows else ())
    )
