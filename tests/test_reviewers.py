"""Many reviewers at once, seen from outside: what was acknowledged is in the file once, however the server ends and whoever disagrees."""

import sys
from pathlib import Path

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

from reviewers import OnPage, decide_in_turn, held_against_file, killed, on_store, opposed, server, steady, through_server

from panorama.reviews import ReviewStore

# A page with the review component's contract and nothing else: it stores what comes, then says so. {SAVE} may be left out.
APP = """
import os, time
from pathlib import Path

import streamlit as st

from panorama.decisions import Answer
from panorama.reviews import ReviewStore


@st.cache_resource
def store():
    return ReviewStore(Path(os.environ["PANORAMA_HOME"]) / "reviews.sqlite")


@st.cache_resource
def component():
    return st.components.v2.component("panorama_workbench", html="<p></p>")


name = st.text_input("Your name", key="reviewer")


@st.fragment
def bench():
    batch = (st.session_state.get("bench") or {}).get("batch") or {"client": "", "events": []}
    events = [
        Answer(one["image"], one["label"], 0, "change" if one["value"] else "keep", name, event_id=f"{batch['client']}:{one['n']}")
        for one in batch["events"]
    ]
    SAVE
    acked = {"client": batch["client"], "n": max((one["n"] for one in batch["events"]), default=-1)}
    cards = {str(i): {"image": f"{i} of {name}.jpg", "label": "sea", "given": 0} for i in range(100)}
    data = {
        "serial": time.time_ns(), "csv": "0" * 64, "epoch": "", "reviewer": name, "order": list(cards), "cards": cards, "acked": acked,
        "refused": [], "error": "", "empty": "",
    }
    component()(key="bench", data=data, default={"batch": None}, on_batch_change=lambda: None)


bench()
"""
SAVE = 'store().apply("0" * 64, events)'


def app(folder: Path, save: str) -> list[str]:
    """The command that serves the page on the port that follows."""
    script = folder / "app.py"
    script.write_text(APP.replace("SAVE", save))
    return [sys.executable, "-m", "streamlit", "run", str(script), "--server.headless=true", "--server.port"]


def test_reviewers_on_one_store_lose_and_double_nothing(tmp_path: Path) -> None:
    outcomes, verdict = steady(tmp_path / "reviews.sqlite", 8, 2)
    assert [len(outcome.acknowledged) for outcome in outcomes] == [2] * 8
    assert (verdict.lost, verdict.doubled, verdict.integrity) == (0, 0, "ok")


def test_the_negative_control_a_decision_that_was_only_acknowledged_is_missed(tmp_path: Path) -> None:
    store = ReviewStore(tmp_path / "reviews.sqlite")
    decide = on_store(store, "Ada")
    saved = [decide(number) for number in range(3)]
    assert held_against_file(store.path, [*saved, "never saved"]).lost == 1
    decide(0)
    assert held_against_file(store.path, saved).doubled == 1, "the same reviewer's cell again, under another event id"


def test_what_a_reviewer_cannot_save_is_an_error_and_not_acknowledged(tmp_path: Path) -> None:
    store = ReviewStore(tmp_path / "reviews.sqlite")
    store.close()
    (outcome,) = decide_in_turn([on_store(store, "Ada")], 3, 0)
    assert (outcome.tried, len(outcome.acknowledged), len(outcome.errors)) == (3, 0, 3)


@pytest.mark.slow
def test_what_was_acknowledged_survives_kill_9_in_the_middle_three_times(tmp_path: Path) -> None:
    outcomes, verdict = killed(tmp_path / "reviews.sqlite", 10)
    assert len(outcomes[0].acknowledged) > 30
    assert outcomes[0].tried > len(outcomes[0].acknowledged), "it was killed while decisions were on their way"
    assert (verdict.lost, verdict.doubled, verdict.integrity) == (0, 0, "ok")


@pytest.mark.slow
def test_a_thousand_opposite_decisions_are_a_thousand_conflicts_and_change_no_byte(tmp_path: Path) -> None:
    outcomes, verdict, conflicts, same = opposed(tmp_path)
    assert [len(outcome.acknowledged) for outcome in outcomes] == [1000, 1000]
    assert (verdict.lost, verdict.doubled) == (0, 0)
    assert conflicts == 1000
    assert same


@pytest.mark.slow
def test_reviewers_through_the_server_lose_and_double_nothing(tmp_path: Path) -> None:
    with server(app(tmp_path, SAVE), tmp_path) as address:
        outcomes, verdict = through_server(address, tmp_path / "reviews.sqlite", 4, 3, page="")
    assert [error for outcome in outcomes for error in outcome.errors] == []
    assert sum(len(outcome.acknowledged) for outcome in outcomes) >= 8, "three each, or a slow machine"
    assert (verdict.lost, verdict.doubled, verdict.integrity) == (0, 0, "ok")


@pytest.mark.slow
def test_the_negative_control_a_server_that_acknowledges_without_saving_is_caught(tmp_path: Path) -> None:
    ReviewStore(tmp_path / "reviews.sqlite").close()
    with server(app(tmp_path, "pass"), tmp_path) as address:
        reviewer = OnPage(address, "Ada", page="")
        told = [reviewer(number) for number in range(2)]
        reviewer.tab.close()
    assert held_against_file(tmp_path / "reviews.sqlite", told).lost == 2
