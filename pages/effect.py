"""Train again on the corrected labels, and see what it changed: old and new side by side, with what each figure can prove."""

import time

import pandas as pd
import streamlit as st

from panorama import charts, effect, launch, runs, ui
from panorama.csvscan import counted
from panorama.decisions import corrections
from panorama.effect import Figure, Target
from panorama.errors import PanoramaError
from panorama.events import progress
from panorama.runs import Run

ui.ensure_entrypoint()

st.title("Effect")
st.caption("What your corrections changed: the same training once more, on the corrected labels, with the same seed and split.")
home = runs.workspace()
chosen = ui.choose_run(needs="metrics.json")
try:
    store = ui.review_store(home)
    origin = runs.find_run(home, chosen.corrects.run) if chosen.corrects else None
    # A retrained run is shown against its origin, until people correct its own CSVs and it is the old one itself.
    old = origin if origin is not None and not store.corrections(chosen.fingerprint) else chosen
    fold = store.fold(old.fingerprint)
except PanoramaError as error:
    ui.show_error(error)
    st.stop()
changes = corrections(fold.standing.values())
retrained = effect.retrainings(old, home)
if not changes and not retrained:
    ui.empty_state(
        "No label is corrected yet.",
        "Change some labels in the review; then this page trains again on them and shows what it brought.",
        "review",
        "Review the suspects",
    )


def retrain() -> None:
    """Makes the run on the corrected labels and starts its worker; what goes wrong is told after the rerun."""
    try:
        launch.start(effect.retrain_run(old, changes, home, decisions_up_to=fold.last_id))
    except PanoramaError as error:
        st.session_state["effect-told"] = str(error)


def resume(run: Run) -> None:
    """Goes on with a retraining that was stopped."""
    try:
        launch.start(run)
    except PanoramaError as error:
        st.session_state["effect-told"] = str(error)


def offer(label: str) -> None:
    """The button, and what it will do."""
    st.write(
        f"{counted(len(changes), 'corrected cell')}; everything else as in the run of {old.created.astimezone():%d %b %Y, %H:%M}: pictures, seed "
        f"{old.config.seed}, split. That run took {ui.duration(effect.seconds_of(old))}; expect as much, or less where pictures are kept ready. "
        "Your CSV is not touched."
    )
    st.button(label, type="primary", key="retrain", on_click=retrain)


def watch(run: Run) -> None:
    """How the retraining stands."""
    h = run.history()
    state = run.state(h)
    if st.session_state.get("effect-watched") != (run.id, state):
        st.session_state["effect-watched"] = (run.id, state)
        st.rerun()  # once, so that the page ticks only while something runs
    if state in ("starting", "running"):
        now, asked = progress(h, time.time(), run.config), run.stop_is_asked()
        left = "" if now.seconds_left is None else f" · about {ui.duration(now.seconds_left)} left"
        st.progress(now.fraction, f"{'Stopping ...' if asked else ui.text(now.doing)}{left}")
        if st.button("Stop", key="stop", disabled=asked, help="Stops at the next batch; it can be resumed."):
            run.ask_to_stop()
            st.rerun(scope="fragment")
        return
    st.warning("Training again failed." if state == "failed" else "Training again was stopped before it was complete.")
    if h.message:
        st.write(ui.text(h.message))
    st.button("Resume", type="primary", key="resume", on_click=resume, args=(run,))


def name_of(target: Target, figure: Figure) -> str:
    """The rows of the chart: against what, and which measure."""
    return f"{target.title}: {figure.name}"


def show(target: Target) -> None:
    """One comparison: its figures, and what they can and cannot prove."""
    st.subheader(target.title)
    if not target.figures:
        st.write(target.missing)
        return
    st.caption(f"Measured on {target.measured_on}.")
    rows = [
        {
            "measure": f.name + ("" if f.higher_is_better else ", lower is better"), "old": f.old.words(), "new": f.new.words(),
            "new minus old": f.difference.words("+"), "the new run is": f.verdict,
        }
        for f in target.figures
    ]  # fmt: skip
    st.table(pd.DataFrame(rows).set_index("measure"))
    st.markdown(f"**It can show** {target.can}  \n**It cannot show** {target.cannot}")


if st.session_state.get("effect-told"):
    st.error(ui.text(st.session_state.pop("effect-told")))
if not retrained:
    with st.container(border=True):
        offer("Retrain on the corrected labels")
    st.stop()
new = retrained[0]
if not new.has("metrics.json"):
    alive = new.state() in ("starting", "running")
    st.write(f"Training again on {counted(new.corrects.cells if new.corrects else 0, 'corrected cell')}.")
    st.fragment(watch, run_every=1.0 if alive else None)(new)
    if changes and not alive:
        st.button("Start over with the corrections of now", key="retrain", on_click=retrain)
finished = next((run for run in retrained if run.has("metrics.json")), None)
if finished is None:
    st.stop()

try:
    found = ui.comparison(old, finished, fold)
except PanoramaError as error:
    ui.show_error(error)
    st.stop()
if found.waiting and new is finished:
    with st.container(border=True):
        st.markdown(
            f"**{counted(found.waiting, 'correction')} {'was' if found.waiting == 1 else 'were'} made or taken back since the retraining.**"
        )
        if changes:
            offer("Retrain again")
st.write(
    f"**Old**: the run of {old.created.astimezone():%d %b %Y, %H:%M}, on the labels as they came. "
    f"**New**: the same with {counted(found.trained_on, 'corrected cell')}."
)
shown = [(t, t.figures[0]) for t in (found.original, found.corrected, found.verified) if t.figures]
left, right = st.container(key="charts").columns([3, 2])
with left:
    rows = [
        {"target": name_of(t, f), "run": name, "value": e.value, "low": e.low, "high": e.high, "text": f"{name} {e.words()}"}
        for t, f in shown for name, e in (("old", f.old), ("new", f.new))
    ]  # fmt: skip
    st.altair_chart(charts.old_and_new(rows), key="old-and-new")
with right:
    gaps = [
        {"target": f"{t.title}: {f.difference.words('+')}", "value": f.difference.value, "low": f.difference.low, "high": f.difference.high}
        for t, f in shown
    ]  # fmt: skip
    st.altair_chart(charts.differences(gaps), key="differences")
st.caption(
    f"Intervals: 95 %, from {found.resamples:,} draws of whole images with replacement; the same draw judges old and new, and near-duplicates that "
    "the run found are drawn together. They say how far the figures would move with other images of the kind, not with another seed: old and new "
    "are one training each."
)
for target in found.targets:
    show(target)

st.subheader("Each label, on the test split against the corrected labels")
table = pd.DataFrame(
    [
        {
            "label": s.label, "positives": s.positives, "cells corrected (all splits)": s.corrected,
            "average precision, old": "not measurable" if s.old is None else f"{s.old:.3f}",
            "average precision, new": "not measurable" if s.new is None else f"{s.new:.3f}",
            "new minus old": "—" if s.old is None or s.new is None else f"{s.new - s.old:+.3f}",
        }
        for s in found.labels
    ]
)  # fmt: skip
st.dataframe(table, hide_index=True, key="labels")
ui.page_link("report", "Next: read the report →")
