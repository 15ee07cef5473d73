"""Answers that left the review page on the way: every other page has the browser send what is not stored yet, and tells it what is."""

from pathlib import Path
from typing import Any

import streamlit as st

from panorama.ui import address

# In the session, by the tab's id: up to which of its events all is stored, and what was refused and why.
ACKED, REFUSED = "review-acked", "review-refused"
KEY, BENCH = "unsaved", "workbench"  # of the components that send
_FOLDER = Path(__file__).parent / "review"
_MOUNT = """
export default ({ data, setStateValue, parentElement }) => {
  const root = parentElement.querySelector("i");
  arrive(root, data.page);
  if (root.serial !== data.serial) held.sentAt = undefined; // the server has answered
  root.serial = data.serial;
  tellUnsaved(null);
  hear(data);
  sendFrom(root, setStateValue);
  return () => clearInterval(root.sending);
};
"""


@st.cache_resource(show_spinner=False)
def _component() -> Any:
    """One registration a server."""
    return st.components.v2.component("panorama_unsaved", html="<i hidden></i>", js=script("leaving.js", "unsaved.js") + _MOUNT)


def script(*names: str) -> str:
    """These files of the review's, as one."""
    return "\n".join([address.HERE, *((_FOLDER / name).read_text(encoding="utf-8") for name in names)])


def batch() -> dict[str, Any]:
    """What the browser sent from a page without a bench; empty where it did not."""
    found = (st.session_state.get(KEY) or {}).get("batch")
    return found if isinstance(found, dict) else {}


def tell() -> None:
    """Once a run, on pages that have no bench."""
    data = {
        "page": address.page(), "acked": st.session_state.get(ACKED, {}), "refused": st.session_state.get(REFUSED, {}), "serial": batch().get("attempt"),
    }  # fmt: skip
    with st.container(key="unseen-unsaved"):
        _component()(key=KEY, data=data, default={"batch": None}, on_batch_change=lambda: None)
