"""Commands around the app: the server, and what is kept to be faster."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from panorama import cache, runs

_PROJECT = Path(__file__).resolve().parent.parent.parent


def cached(options: argparse.Namespace) -> int:
    """Says how much is kept to be faster; clears it where asked."""
    folder = runs.workspace() / "cache"
    if options.clear:
        print(f"{folder}: cleared {cache.clear(folder) / 1e9:.2f} GB.")
    print(f"{folder}: {cache.size(folder) / 1e9:.2f} GB of at most {cache.limit(folder) / 1e9:.1f} GB (PANORAMA_CACHE_GB).")
    return 0


def serve(options: argparse.Namespace) -> int:
    """Opens the app on this machine only; the server takes this process over where that can be."""
    command = [sys.executable, "-m", "streamlit", "run", "streamlit_app.py", "--server.address", "127.0.0.1", "--server.port", str(options.port),
               "--browser.gatherUsageStats", "false", "--server.fileWatcherType", "none"]  # fmt: skip
    environment = os.environ | {"PANORAMA_HOME": str(runs.workspace())}  # the default is relative to where the command was given
    os.chdir(_PROJECT)
    if os.name == "posix":
        os.execve(sys.executable, command, environment)  # the server takes this process over: whoever stops it, stops the server
    try:
        return subprocess.call(command, env=environment)
    except KeyboardInterrupt:
        return 0


def port(text: str) -> int:
    """A port as it is typed. Raises ArgumentTypeError for what is none."""
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; expected a number from 1 to 65535")
    return int(text)
