"""A browser tab as Streamlit's server sees it, without a browser: one WebSocket that speaks its protobufs.

Twenty-five browsers do not fit on two cores; twenty-five of these do. The server runs the same script, sends the same messages and gets the same
answers; what a browser does with them (drawing, pictures) is left out. Written against Streamlit 1.67, whose protocol is its own and may change.
"""

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.Element_pb2 import Element
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.WidgetStates_pb2 import WidgetState
from websockets.sync.client import connect

_TOO_LONG_SECONDS = 120.0


@dataclass(frozen=True)
class Drawn:
    """An element of the page as it was last sent. fragment: the id of the fragment that drew it; empty outside of one."""

    element: Element
    fragment: str


class Tab:
    """A session on one page of the app at `address` ("http://127.0.0.1:8501"); connects, and opens the page.

    page: as in its URL, "" for the first one. query: the URL's, without the question mark.
    """

    def __init__(self, address: str, page: str = "", query: str = "") -> None:
        url = address.replace("http", "ws", 1) + "/_stcore/stream"
        self._opened = ExitStack()
        self._socket = self._opened.enter_context(connect(url, subprotocols=["streamlit"], max_size=None, compression=None))
        self._page, self._query, self._script = page, query, ""
        self._drawn: dict[tuple[int, ...], Drawn] = {}
        self._states: dict[str, WidgetState] = {}
        self._running = True
        self.rerun()

    def close(self) -> None:
        """Leaves, as a closed tab does."""
        self._opened.close()

    def __enter__(self) -> "Tab":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- what the page shows ------------------------------------------------------------------------------------------

    def component(self, name: str) -> Drawn | None:
        """The component (v2) registered under this name, or None while it is not drawn."""
        drawn = (one for one in self._drawn.values() if one.element.WhichOneof("type") == "bidi_component")
        return next((one for one in drawn if one.element.bidi_component.component_name == name), None)

    def data(self, name: str) -> Any:
        """What Python gave the component, from its JSON; None while it is not drawn."""
        found = self.component(name)
        return json.loads(found.element.bidi_component.json or "null") if found is not None else None

    def text_input(self, key: str) -> Drawn | None:
        """The text field with this key, or None."""
        drawn = (one for one in self._drawn.values() if one.element.WhichOneof("type") == "text_input")
        return next((one for one in drawn if one.element.text_input.id.endswith(f"-{key}")), None)

    def errors(self) -> list[str]:
        """The exceptions that the page shows."""
        shown = (one.element for one in self._drawn.values() if one.element.WhichOneof("type") == "exception")
        return [f"{element.exception.type}: {element.exception.message}" for element in shown]

    # --- what the visitor does ----------------------------------------------------------------------------------------

    def set_state(self, name: str, values: dict[str, Any]) -> None:
        """The component's state, as `setStateValue` in its script sets it; runs its fragment, or the page where it is in none."""
        found = self.component(name)
        if found is None:
            raise RuntimeError(f"There is no component {name} on the page. {' '.join(self.errors())}")
        component = found.element.bidi_component
        self._states[component.id] = WidgetState(id=component.id, json_value=json.dumps(values))
        self.rerun(found.fragment)

    def type_text(self, key: str, text: str) -> None:
        """Types into a text field and leaves it."""
        found = self.text_input(key)
        if found is None:
            raise RuntimeError(f"There is no text field {key} on the page. {' '.join(self.errors())}")
        widget = found.element.text_input.id
        self._states[widget] = WidgetState(id=widget, string_value=text)
        self.rerun(found.fragment)

    def click(self, key: str) -> None:
        """Presses the button with this key."""
        drawn = (one for one in self._drawn.values() if one.element.WhichOneof("type") == "button")
        found = next((one for one in drawn if one.element.button.id.endswith(f"-{key}")), None)
        if found is None:
            raise RuntimeError(f"There is no button {key} on the page. {' '.join(self.errors())}")
        widget = found.element.button.id
        self._states[widget] = WidgetState(id=widget, trigger_value=True)
        self.rerun(found.fragment)
        del self._states[widget]

    def rerun(self, fragment: str = "") -> None:
        """Asks for a run of the script, or of one fragment, with the state of every widget that was touched."""
        message = BackMsg()
        client = message.rerun_script
        client.query_string, client.page_script_hash, client.fragment_id = self._query, self._script, fragment
        if not self._script:
            client.page_name = self._page
        client.widget_states.widgets.extend(self._states.values())
        self._running = True
        self._socket.send(message.SerializeToString())

    # --- what comes back ----------------------------------------------------------------------------------------------

    def wait(self, until: Callable[["Tab"], bool], *, seconds: float = _TOO_LONG_SECONDS) -> None:
        """Takes in messages until the condition holds. Raises TimeoutError, with what the page shows instead; an exception at once."""
        deadline = time.monotonic() + seconds
        while not until(self):
            left = deadline - time.monotonic()
            if left <= 0 or (self.errors() and not self._running):
                raise TimeoutError(f"Waited {seconds:g} s. The page shows: {self.errors() or 'no error'}")
            try:
                received = self._socket.recv(timeout=left)
            except TimeoutError:
                continue
            assert isinstance(received, bytes)
            self._take_in(ForwardMsg.FromString(received))

    def settle(self) -> None:
        """Waits until no script runs."""
        self.wait(lambda tab: not tab._running)

    def _take_in(self, message: ForwardMsg) -> None:
        kind = message.WhichOneof("type")
        if kind == "new_session":
            self._script = message.new_session.page_script_hash
            self._running = True
        elif kind == "navigation":
            self._script = message.navigation.page_script_hash
        elif kind == "script_finished":
            self._running = message.script_finished == ForwardMsg.FINISHED_EARLY_FOR_RERUN
        elif kind == "delta" and message.delta.WhichOneof("type") == "new_element":
            drawn = Drawn(message.delta.new_element, message.delta.fragment_id)
            self._drawn[tuple(message.metadata.delta_path)] = drawn
