"""A training under way, as every page shows it: how far it is, how long it will still take, and the button that stops it."""

import time

import streamlit as st

from panorama import launch, runs, ui
from panorama.config import TrainConfig
from panorama.errors import PanoramaError
from panorama.events import History, Progress, duration, progress
from panorama.finding import Source
from panorama.runs import Run, State

WORKING = ("starting", "running")


def begin(source: Source, config: TrainConfig) -> Run | None:
    """Makes a run and starts its worker; from then on it is the run that every page shows. None when it could not, said in words."""
    home = runs.workspace()
    waiting = any(other.state() in WORKING for other in runs.list_runs(home)[:3])
    if runs.running(home) is not None or waiting:
        st.error("A training is already running in this workspace. Wait for it, or stop it first.")
        return None
    try:
        run = runs.create(ui.data_set(source), config, home)
        launch.start(run)
    except PanoramaError as error:
        ui.show_error(error)
        return None
    st.session_state["run"] = run.id
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
        left = "" if now.seconds_left is None else f" · about {duration(now.seconds_left)} left"
        st.progress(now.fraction, f"{'Stopping ...' if asked else ui.text(now.doing)}{left}")
        if st.button("Stop", key="stop", disabled=asked, help="Stops at the next batch; the run can be resumed."):
            run.ask_to_stop()
            st.rerun(scope="fragment")
    return h, state, now
