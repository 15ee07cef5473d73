"""A training, or a drawing of the demo, under way, as every page shows it: how far it is, how long it will still take, and the button that stops it."""

import time

import streamlit as st

from panorama import demo_job, launch, runs, ui
from panorama.config import TrainConfig
from panorama.countdown import Steady, left_in_words
from panorama.errors import PanoramaError
from panorama.events import History, Progress, progress
from panorama.finding import Source
from panorama.runs import Run, State
from panorama.workspace import current

WORKING = ("starting", "running")


def begin(source: Source, config: TrainConfig) -> Run | None:
    """Makes a run and starts its worker; from then on it is the run that every page shows. None when it could not, said in words."""
    home = runs.workspace()
    if runs.is_busy(home):
        st.error("A training is already running in this workspace. Wait for it, or stop it first.")
        return None
    try:
        run = runs.create(ui.data_set(source), config, home)
        launch.start(run)
    except PanoramaError as error:
        ui.show_error(error)
        return None
    ui.keep_run(run.id)
    return run


def under_way(run: Run) -> tuple[History, State, Progress]:
    """What the run's log says, how it stands and how far it is; while it works, with a bar, the time left and a button that stops it.

    For a fragment: the whole page runs once more when the state changes, so that it ticks only while something works.
    """
    h = run.history()
    state = run.state(h)
    if st.session_state.get("watched") != (run.id, state):
        st.session_state["watched"] = (run.id, state)
        st.rerun()
    now = progress(h, time.time(), run.config)
    if state in WORKING:
        asked = run.stop_is_asked()
        steady: Steady = st.session_state.setdefault(f"countdown-{run.id}", Steady())
        seconds = steady.left(now.seconds_left, time.time())
        left = "" if seconds is None else f" · {left_in_words(seconds)}"
        st.progress(now.fraction, f"{'Stopping ...' if asked else ui.text(now.doing)}{left}")
        if st.button("Stop", key="stop", disabled=asked, help="Stops at the next batch; the run can be resumed."):
            run.ask_to_stop()
            st.rerun(scope="fragment")
    return h, state, now


def draw_demo(label: str, *, key: str, train: bool) -> None:
    """The button that has the demo drawn; while that is under way, wherever it was asked for, how far it is and one button that stops it.

    It is drawn in a process of its own, so a refresh or another tab finds it again. Whoever sees it end is taken to the training, or shown the pictures.
    """
    home = runs.workspace()
    now = demo_job.standing(home)
    working = now is not None and now.state == "working"
    if st.button(label, type="primary", key=key, disabled=working):
        try:
            demo_job.start(home, train=train)
        except PanoramaError as error:
            ui.show_error(error)
            return
        st.rerun()
    if now is None:
        return
    if working:
        st.session_state["watched-drawing"] = now.began_at
        st.fragment(_drawing, run_every=1.0)()
        return
    watched = st.session_state.get("watched-drawing") == now.began_at
    if now.state == "failed" and (watched or current(home) is None):
        st.error(ui.text(f"The demo could not be drawn. {now.message}"))
    elif now.state == "stopped" and watched:
        st.info("The drawing was stopped, and nothing is left of it.")
    elif now.state == "drawn" and watched:
        del st.session_state["watched-drawing"]
        if now.run:
            ui.keep_run(now.run)
            ui.go("train")
        st.rerun()  # what stands above was drawn before there was a data set


def _drawing() -> None:
    """How far the demo is; the whole page runs once more when it ends."""
    home = runs.workspace()
    now = demo_job.standing(home)
    if now is None or now.state != "working":
        st.rerun()
    asked = demo_job.stop_is_asked(home)
    far = f"{now.doing}: {now.done:,} of {now.total:,}" if now.total else f"{now.doing} ..."
    left = "" if now.seconds_left is None else f" · {left_in_words(now.seconds_left)}"
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.progress(now.done / max(now.total, 1), "Stopping ..." if asked else f"{far}{left}")
        if st.button("Stop", key="stop-drawing", disabled=asked, help="Ends at the next picture, and leaves nothing."):
            demo_job.ask_to_stop(home)
            st.rerun(scope="fragment")
