"""What of the container can be held without one: what goes into the image does the work, and the health check tells the living from the dead."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import ROOT


class _Server(BaseHTTPRequestHandler):
    """Healthy at the path that Streamlit answers, and at no other."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/_stcore/health" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class _Hung(_Server):
    def do_GET(self) -> None:
        threading.Event().wait(20)


class _Failing(_Server):
    def do_GET(self) -> None:
        self.send_response(503)
        self.end_headers()


@contextmanager
def listening(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def is_healthy(port: int, **environment: str) -> bool:
    """What the image's health check says of a server on this port."""
    found = re.search(r"HEALTHCHECK.*?CMD (\[.*?\])$", (ROOT / "Dockerfile").read_text(), re.DOTALL | re.MULTILINE)
    assert found is not None
    python, *arguments = json.loads(found[1])
    assert python == "python"
    assert "8501" in arguments[-1]
    command = [sys.executable, *(text.replace("8501", str(port)) for text in arguments)]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, timeout=10, check=False).returncode == 0


def test_the_health_check_tells_a_server_that_answers() -> None:
    with listening(_Server) as port:
        assert is_healthy(port)
        assert is_healthy(port, http_proxy="http://127.0.0.1:9", HTTP_PROXY="http://127.0.0.1:9"), "it asks no proxy"


@pytest.mark.parametrize("handler", [_Hung, _Failing])
def test_the_health_check_tells_one_that_does_not(handler: type[BaseHTTPRequestHandler]) -> None:
    with listening(handler) as port:
        assert not is_healthy(port)
    assert not is_healthy(port), "nobody listens any more"


def test_what_goes_into_the_image_is_the_app_and_nothing_that_lies_beside_it(tmp_path: Path) -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*", "what is not named stays outside"
    assert [line for line in lines if line.endswith((".streamlit", ".streamlit/"))] == [], "secrets lie there"
    taken = [line[1:] for line in lines if line.startswith("!")]
    for name in taken:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        else:
            shutil.copy(ROOT / name, tmp_path / name)
    code = (
        "from streamlit.testing.v1 import AppTest; app = AppTest.from_file('streamlit_app.py', default_timeout=60).run();"
        "assert not app.exception, app.exception; print(app.title[0].value)"
    )
    environment = os.environ | {"PANORAMA_HOME": str(tmp_path / "workspace"), "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip() == "panorama", done.stderr[-2000:]
    command = [sys.executable, "-m", "panorama", "demo", "--help"]
    assert subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=120, check=False).returncode == 0
