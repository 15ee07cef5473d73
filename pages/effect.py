"""Train again on the corrected labels, and see what it changed: old and new side by side, with what each figure can prove."""

import streamlit as st

from panorama import effect, launch, runs, ui
from panorama.csvscan import counted
from panorama.decisions import corrections
from panorama.errors import PanoramaError
from panorama.runs import Run
from panorama.ui import comparing, running

ui.ensure_entrypoint()

st.title("Effect")
st.caption(
    f"What your corrections changed: the same training once more, on the corrected labels, with the same seed and split. {ui.CELL}"
)
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


def start(run: Run | None = None) -> None:
    """Starts the run's worker, or that of a new run on the corrected labels; what goes wrong is told after the rerun."""
    try:
        launch.start(run or effect.retrain_run(old, changes, home, decisions_up_to=fold.last_id))
    except PanoramaError as error:
        st.session_state["effect-told"] = str(error)


def offer(label: str) -> None:
    """The button, and what it will do."""
    st.write(
        f"{counted(len(changes), 'corrected cell')}; everything else as in the run of {old.created.astimezone():%d %b %Y, %H:%M}: pictures, seed "
        f"{old.config.seed}, split. {effect.expected_time(old)} Your CSV is not touched."
    )
    st.button(label, type="primary", key="retrain", on_click=start)


def watch(run: Run) -> None:
    """How the retraining stands."""
    h, state, _ = running.under_way(run)
    if state in running.WORKING:
        return
    st.warning("Training again failed." if state == "failed" else "Training again was stopped before it was complete.")
    if h.message:
        st.write(ui.text(h.message))
    st.button("Resume", type="primary", key="resume", on_click=start, args=(run,))


if st.session_state.get("effect-told"):
    st.error(ui.text(st.session_state.pop("effect-told")))
if not retrained:
    with st.container(border=True):
        offer("Retrain on the corrected labels")
    ui.page_link("report", "Or read the report →")
    st.stop()
new = retrained[0]
if not new.has("metrics.json"):
    alive = new.state() in running.WORKING
    st.write(f"Training again on {counted(new.corrects.cells if new.corrects else 0, 'corrected cell')}.")
    st.fragment(watch, run_every=1.0 if alive else None)(new)
    if changes and not alive:
        st.button("Start over with the corrections of now", key="retrain", on_click=start)
finished = next((run for run in retrained if run.has("metrics.json")), None)
if finished is None:
    ui.page_link("report", "Meanwhile: read the report →")
    st.stop()

try:
    found = ui.comparison(old, finished, fold)
except PanoramaError as error:
    ui.show_error(error)
    st.stop()
st.markdown(f"**{ui.text(found.verdict)}**")
st.caption(
    "In brackets the 95 % interval. Where nothing changed, about one figure in twenty would tell a difference all the same; what each can and cannot show stands below it."
)
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
comparing.side_by_side(found)
for target in found.targets:
    comparing.target(target)
comparing.labels(found.labels)
ui.page_link("report", "Next: read the report →")
