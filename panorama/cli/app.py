"""Commands around the app: the server, and what is kept to be faster."""

import argparse
import importlib.util
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from panorama import cache, runs, serving
from panorama.errors import PanoramaError
from panorama.workspace import require_writable

_PROJECT = Path(__file__).resolve().parent.parent.parent


def cached(options: argparse.Namespace) -> int:
    """Says how much is kept to be faster; clears it where asked."""
    folder = runs.workspace() / "cache"
    if options.clear:
        print(f"{folder}: cleared {cache.clear(folder) / 1e9:.2f} GB.")
    print(f"{folder}: {cache.size(folder) / 1e9:.2f} GB of at most {cache.limit(folder) / 1e9:.1f} GB (PANORAMA_CACHE_GB).")
    return 0


def serve(options: argparse.Namespace) -> int:
    """Opens the app; the server takes this process over where that can be. Raises PanoramaError when it would let others in unasked."""
    flags: dict[str, Any] = {
        **serving.SAFE,  # a flag counts more than a file or the environment
        "server.address": options.address,
        "server.allowedHosts": ["localhost", "127.0.0.1", *options.host],
        "server.port": options.port,
        "server.fileWatcherType": "none",
    }
    environment = os.environ | {"PANORAMA_HOME": str(runs.workspace())}  # the default is relative to where the command was given
    if options.people:
        environment[serving.PEOPLE] = options.people
    os.chdir(_PROJECT)
    found = [*serving.weaknesses(flags.get, environment, login=_login_is_configured()), *serving.too_old()]
    if _login_is_configured() and importlib.util.find_spec("authlib") is None:
        found.append('A login is configured, and Authlib, which it needs, is not installed. Run pip install "streamlit[auth]".')
    if found:
        raise PanoramaError(" ".join(found))
    require_writable(Path(environment["PANORAMA_HOME"]))
    given = [(name, one) for name, value in flags.items() for one in (value if isinstance(value, list) else [value])]
    command = [sys.executable, "-m", "streamlit", "run", "streamlit_app.py"]
    command += [f"--{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in given]
    if os.name == "posix":
        os.execve(sys.executable, command, environment)  # the server takes this process over: whoever stops it, stops the server
    try:
        return subprocess.call(command, env=environment)
    except KeyboardInterrupt:
        return 0


def _login_is_configured() -> bool:
    for folder in (_PROJECT, Path.home()):
        try:
            return "auth" in tomllib.loads((folder / ".streamlit" / "secrets.toml").read_text("utf-8"))
        except OSError:
            continue
    return False


def port(text: str) -> int:
    """A port as it is typed. Raises ArgumentTypeError for what is none."""
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; expected a number from 1 to 65535")
    return int(text)
