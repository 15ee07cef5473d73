"""What a page shows, in the browser's address: on arrival in the place of the one that led here, so that one Back leaves the page; after that each choice
is a step that Back takes back."""

import json
import time
from collections.abc import Collection, Mapping
from typing import Any, Literal
from urllib.parse import urlencode

import streamlit as st

PAGES = (
    ("start", "Start"),
    ("dataset", "Dataset"),
    ("train", "Train"),
    ("sanity_check", "Sanity check"),
    ("review", "Review"),
    ("export", "Export"),
    ("effect", "Effect"),
    ("report", "Report"),
    ("predict", "Predict"),
)
FIRST = "start"  # whose path is that of the app
# For scripts that Python's messages carry: one may begin when the browser has gone on to another page. The first page's path may be any, behind a proxy.
HERE = f"""
const PAGES = {json.dumps([name for name, _ in PAGES if name != FIRST])};
function pageHere() {{
  const last = location.pathname.split("/").at(-1);
  return PAGES.includes(last) ? last : "";
}}
"""
_PAGE, _HAS_ARRIVED, _SAID, _TOLD = "address-page", "address-arrived", "address-said", "address-told"
# Streamlit makes an entry in the history of every change of the address; only a script can put one in the place of another.
_SCRIPT = (
    HERE
    + """
export default function ({ data }) {
  if (globalThis.__panoramaAddress === data.at || pageHere() !== data.page) return;
  globalThis.__panoramaAddress = data.at;
  if (data.query) history.replaceState(history.state, "", `${location.pathname}?${data.query}${location.hash}`);
}
"""
)


@st.cache_resource(show_spinner=False)
def _component() -> Any:
    """One registration a server."""
    return st.components.v2.component("panorama_address", html="<i hidden></i>", js=_SCRIPT)


def arrive(page: str) -> None:
    """On every run: whether somebody has just come to this page."""
    if st.session_state.get(_PAGE) != page:
        st.session_state[_PAGE], st.session_state[_HAS_ARRIVED] = page, True


def page() -> str:
    """The page that somebody is on, by its path; "" is the first one."""
    return str(st.session_state.get(_PAGE, ""))


def say(wanted: Mapping[str, str], names: Collection[str]) -> Literal["arrival", "step", "as before"]:
    """Puts `wanted` into the address, and of these names nothing else. Once a run."""
    there = st.query_params.to_dict()
    whole = {name: text for name, text in there.items() if name not in names} | dict(wanted)
    has_arrived = st.session_state.pop(_HAS_ARRIVED, False)
    # What was said on arrival may never come back from the browser, which tells Streamlit's own changes only.
    is_step = not has_arrived and whole not in (there, st.session_state.get(_SAID))
    if has_arrived or is_step:
        st.session_state[_TOLD] = {"at": str(time.time_ns()), "query": urlencode(whole) if has_arrived and whole != there else ""}
    if is_step:
        st.query_params.from_dict(whole)
    st.session_state[_SAID] = whole
    with st.container(key="unseen-address"):
        _component()(key="address", data={"page": page()} | st.session_state.get(_TOLD, {}))
    return "arrival" if has_arrived else "step" if is_step else "as before"
