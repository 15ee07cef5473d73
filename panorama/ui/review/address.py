"""The review's choices in the page's address, so that a refresh and a copied link show the same, blind above all."""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import streamlit as st

from panorama.ui import address

_ON_ITS_WAY_SECONDS = 2.0  # until then the browser may still send the address from before
_WRITTEN, _KEPT, _AT, _KNOWN = "review-written", "review-kept", "review-written-at", "review-known"


@dataclass(frozen=True)
class Choice:
    """A widget's value in the address. read: from its text; None for what is none of its values. write: to it."""

    default: Any
    read: Callable[[str], Any]
    write: Callable[[Any], str] = str


def one_of(names: Collection[str], default: str) -> Choice:
    """One of these words."""
    return Choice(default, lambda text: text if text in names else None)


def share_of_100(text: str) -> int | None:
    """A multiple of 5 up to 50."""
    return int(text) if text.isdecimal() and int(text) <= 50 and int(text) % 5 == 0 else None


def doubts(text: str) -> tuple[float, float] | None:
    """Two doubts in [0, 1], as 0.3-0.9."""
    try:
        low, high = (float(part) for part in text.split("-"))
    except ValueError:
        return None
    return (low, high) if 0 <= low <= high <= 1 else None


def restore(choices: Mapping[str, Choice]) -> None:
    """Before the widgets: gives them what the address says, on the way in and when somebody goes back to another one.

    Whoever comes from another page of the app without an address of their own finds what they had chosen; with a link to a picture only that
    they are blind.
    """
    asked = _asked(choices)
    is_new = "mode" not in st.session_state  # Streamlit forgets what was chosen on a page that was left
    if not is_new and not _went_back(choices, asked):
        return
    kept = dict(st.session_state.get(_KEPT, {})) if is_new else {}
    if "image" in st.query_params or any(name != "blind" for name in asked):
        kept = {name: text for name, text in kept.items() if name == "blind"}
    for name, choice in choices.items():
        text = asked.get(name, kept.get(name))
        value = None if text is None else choice.read(text)
        if value is not None:
            st.session_state[name] = value
        elif not is_new and name != "blind":  # which only the person turns off
            st.session_state[name] = choice.default  # a widget whose state is only forgotten goes on as the browser has it


def keep(choices: Mapping[str, Choice], run: str) -> None:
    """After the widgets: writes the run, and what is chosen and not what it is at first, into the address."""
    wanted, asked = _chosen(choices), _asked(choices)
    st.session_state[_KEPT] = wanted
    how = address.say({"run": run, **wanted}, {"run", *choices})
    if how == "step":
        st.session_state[_AT] = time.monotonic()
    if how != "as before" or asked == wanted:
        st.session_state[_KNOWN] = [asked, wanted] if how == "arrival" else [wanted]
    st.session_state[_WRITTEN] = wanted


def marked(title: str, choices: Mapping[str, Choice], *names: str) -> str:
    """A menu's title, with how many of its choices are not what they are at first."""
    n = len(_chosen({name: choices[name] for name in names}))
    return f"{title} · {n}" if n else title


def _asked(choices: Mapping[str, Choice]) -> dict[str, str]:
    return {name: st.query_params[name] for name in choices if name in st.query_params}


def _chosen(choices: Mapping[str, Choice]) -> dict[str, str]:
    values = {name: st.session_state.get(name, choice.default) for name, choice in choices.items()}
    return {name: choices[name].write(value) for name, value in values.items() if value != choices[name].default}


def _went_back(choices: Mapping[str, Choice], asked: Mapping[str, str]) -> bool:
    """Whether the address was changed by the browser, rather than is about to be changed by a widget that was just used."""
    written = st.session_state.get(_WRITTEN)
    is_news = asked not in st.session_state.get(_KNOWN, ())
    return is_news and written == _chosen(choices) and time.monotonic() - st.session_state.get(_AT, 0.0) > _ON_ITS_WAY_SECONDS
