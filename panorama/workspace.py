"""The data set that the app works on now, remembered in the workspace so that a refresh or another tab finds it."""

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from panorama.errors import PanoramaError
from panorama.finding import Source

_FILE = "dataset.json"


@dataclass(frozen=True)
class Current:
    """The chosen source; is_demo: panorama drew it, so its training settings are the demo's."""

    source: Source
    is_demo: bool


def require_writable(home: Path) -> None:
    """Makes the workspace's folder. Raises PanoramaError where nothing can be written there."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as error:
        raise PanoramaError(
            f"Nothing can be written in the workspace {home}: {error.strerror or error}. Allow it, or name another folder in PANORAMA_HOME."
        ) from error


def remember(home: Path, source: Source, *, is_demo: bool = False) -> None:
    """Makes `source` the data set that pages show."""
    home.mkdir(parents=True, exist_ok=True)
    temporary = home / f".{_FILE}.{os.getpid()}.tmp"
    temporary.write_text(json.dumps({"source": source.to_json(), "is_demo": is_demo}, indent=2))
    temporary.replace(home / _FILE)


def current(home: Path) -> Current | None:
    """The remembered data set, or None when there is none or its file is damaged."""
    try:
        values = json.loads((home / _FILE).read_text())
        return Current(Source.from_json(values["source"]), bool(values["is_demo"]))
    except (OSError, ValueError, KeyError, TypeError, PanoramaError):
        return None


def current_source(home: Path) -> Source | None:
    """The remembered source, or None."""
    found = current(home)
    return found.source if found else None
