"""The workspace's runs on the training page: a table of them, the curves of some together, and a way to those of other data sets."""

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from panorama import charts, ui
from panorama.runs import Run

_MOST = 8


def table(listed: Sequence[Run]) -> None:
    """A line a run: on what, how it stands, what it reached."""
    st.subheader("Runs")
    rows = []
    for run in listed:
        metrics, h = run.metrics(), run.history()
        test = metrics["test"] if metrics else None
        rows.append({
            "run": run.id, "data set": run.source.name, "labels": f"{run.corrects.cells:,} corrected" if run.corrects else "as they came", "state": run.state(h),
            "test mAP": test["macro"]["average_precision"] if test else None, "test F1": test["macro"]["f1"] if test else None,
            "validation loss": h.best.validation_loss if h.best else None, "epochs": len(h.epochs),
            "minutes": ((h.last_at or 0) - (h.started_at or 0)) / 60 if h.started_at else None, "backbone": run.config.backbone,
        })  # fmt: skip
    number = st.column_config.NumberColumn(format="%.3f")
    st.dataframe(
        pd.DataFrame(rows), hide_index=True, key="runs", placeholder="—",
        column_config={"validation loss": number, "test mAP": number, "test F1": number, "minutes": st.column_config.NumberColumn(format="%.1f")},
    )  # fmt: skip


def curves(listed: Sequence[Run], shown: Run | None) -> None:
    """The loss curves of some runs together: at first two of one data set, as curves of different ones say nothing of each other."""
    runs = [run for run in listed if run.history().epochs]
    if len(runs) < 2:
        return
    first = two_of_one_data_set(runs, shown)
    picked = st.multiselect(
        "Compare", [run.id for run in runs], default=[run.id for run in first], max_selections=_MOST, placeholder="Choose runs",
        key=f"compare-{first[0].id if first else ''}",  # other runs are shown above: they are compared
    )  # fmt: skip
    chosen = [run for run in runs if run.id in picked]
    if len({run.source.root for run in chosen}) > 1:
        st.warning(
            f"These runs are of different data sets ({_names(chosen)}). Their losses are of other pictures and labels, so the lower curve is not the better model."
        )
    elif len({run.corrects is None for run in chosen}) > 1:
        st.caption("A run on corrected labels is measured against those, the others against the labels as they came.")
    if chosen:
        histories = {run.id: run.history() for run in chosen}
        st.altair_chart(charts.compare_runs(histories, log_scale=st.session_state.get("log-scale", False)), key="compare-chart")


def two_of_one_data_set(runs: Sequence[Run], shown: Run | None) -> list[Run]:
    """Of runs, newest first: the one that is shown and the newest other of its data set; else the newest two of any one; else none."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(str(run.source.root), []).append(run)
    group = groups.get(str(shown.source.root), []) if shown is not None else []
    if len(group) < 2:
        return next((some[:2] for some in groups.values() if len(some) >= 2), [])
    ids = [run.id for run in group]
    first = group[ids.index(shown.id)] if shown is not None and shown.id in ids else group[0]
    other = next(run for run in group if run.id != first.id)
    return [run for run in group if run.id in (first.id, other.id)]


def of_others(listed: Sequence[Run]) -> None:
    """Where the current data set has no run: a menu of the others, none of them chosen, and what there is of them."""
    ui.run_of_another(listed)
    table(listed)
    curves(listed, None)


def _names(runs: Sequence[Run]) -> str:
    """Their data sets, each once; by their folders where the names do not tell them apart."""
    roots = {str(run.source.root): run.source.name for run in runs}
    names = sorted(roots.values()) if len(set(roots.values())) == len(roots) else sorted(roots)
    return ui.text(", ".join(names))
