"""The pictures of the Predict page outlive a visit elsewhere, and nothing that was put away comes back."""

import pytest
import streamlit as st

from panorama.ui import predicting

A, B = ("a.jpg", b"a"), ("b.jpg", b"bb")


@pytest.fixture(autouse=True)
def session(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    state: dict[str, object] = {}
    monkeypatch.setattr(st, "session_state", state)
    predicting.enter()
    return state


def test_pictures_are_there_again_until_put_away() -> None:
    assert predicting.sources([]) == ([], False)
    assert predicting.sources([A, B]) == ([A, B], False)
    predicting.enter()  # after a visit to another page
    assert predicting.sources([]) == ([A, B], True)
    assert predicting.sources([]) == ([A, B], True), "and stay, whatever else is clicked"
    predicting.enter()
    assert predicting.sources([]) == ([A, B], True)
    predicting.put_away()
    assert predicting.sources([]) == ([], False)
    predicting.enter()
    assert predicting.sources([]) == ([], False)


def test_new_pictures_take_their_place() -> None:
    predicting.sources([A])
    predicting.enter()
    assert predicting.sources([B]) == ([B], False)
    predicting.enter()
    assert predicting.sources([]) == ([B], True)


def test_what_was_taken_out_of_the_uploader_stays_out() -> None:
    predicting.sources([A])
    assert predicting.sources([]) == ([], False)
    predicting.enter()
    assert predicting.sources([]) == ([], False)


def test_too_many_are_answered_but_not_kept(monkeypatch: pytest.MonkeyPatch, session: dict[str, object]) -> None:
    predicting.sources([B])
    monkeypatch.setattr(predicting, "KEPT_MB", 2 / 2**20)
    assert not predicting.are_too_many([B])
    assert predicting.are_too_many([A, B])
    assert predicting.sources([A, B]) == ([A, B], False)
    assert not any(isinstance(value, list) and value for value in session.values())
    predicting.enter()
    assert predicting.sources([]) == ([], False)
