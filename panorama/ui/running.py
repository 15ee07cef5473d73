"""A training under way, as every page shows it: how far it is, how long it will still take, and the button that stops it."""

import time

import streamlit as st

from panorama import ui
from panorama.events import History, Progress, duration, progress
from panorama.runs import Run, State

WORKING = ("starting", "running")


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
