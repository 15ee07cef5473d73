"""Who the server lets in: settings that are refused, and a running server under probes from outside."""

import contextlib
import http.client
import http.server
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from panorama import serving

SAFE: dict[str, Any] = {
    "server.address": "127.0.0.1",
    "server.allowedHosts": ["localhost", "127.0.0.1"],
    "server.enableCORS": True,
    "server.enableXsrfProtection": True,
    "server.enableStaticServing": False,
    "server.corsAllowedOrigins": [],
    "server.enableAgentApi": False,
    "server.trustedUserHeaders": {},
    "global.developmentMode": False,
    "browser.gatherUsageStats": False,
    "client.showErrorDetails": "type",
}


def weaknesses(changes: dict[str, Any], environment: dict[str, str] | None = None, *, login: bool = False) -> list[str]:
    return serving.weaknesses((SAFE | changes).__getitem__, environment or {}, login=login)


def test_what_the_project_ships_is_safe() -> None:
    assert weaknesses({}) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("server.address", None),
        ("server.address", ""),
        ("server.address", "0.0.0.0"),
        ("server.address", "::"),
        ("server.address", "192.168.1.7"),
        ("server.address", "my-laptop"),
        ("server.allowedHosts", []),
        ("server.allowedHosts", ["localhost", "*"]),
        ("server.enableCORS", False),
        ("server.enableXsrfProtection", False),
        ("server.enableStaticServing", True),
        ("server.enableAgentApi", True),
        ("server.trustedUserHeaders", {"X-User": "name"}),
        ("server.corsAllowedOrigins", ["*"]),
        ("global.developmentMode", True),
        ("browser.gatherUsageStats", True),
        ("client.showErrorDetails", "full"),
    ],
)
def test_each_weakened_setting_is_named(name: str, value: object) -> None:
    (said,) = weaknesses({name: value})
    assert name.split(".")[1] in said or "listens" in said


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.53", "::1", "localhost"])
def test_addresses_that_only_this_machine_reaches(address: str) -> None:
    assert weaknesses({"server.address": address}) == []


def test_a_network_needs_somebody_who_checks_people() -> None:
    everywhere = {"server.address": "0.0.0.0"}
    assert weaknesses(everywhere, {serving.PEOPLE: "proxy"}) == []
    assert weaknesses(everywhere, {serving.PEOPLE: "login"}, login=True) == []
    (said,) = weaknesses(everywhere, {serving.PEOPLE: "login"})
    assert "secrets.toml" in said
    assert weaknesses(everywhere, {serving.PEOPLE: "yes"}, login=True)


def test_packages_older_than_is_safe_are_named() -> None:
    floors = {name: ".".join(map(str, floor)) for name, floor in serving.FLOORS.items()}
    assert serving.too_old((floors | {"torch": "2.13.0+cu130"}).__getitem__) == []
    (said,) = serving.too_old((floors | {"pillow": "12.2.9"}).__getitem__)
    assert said.startswith("pillow 12.2.9 is older than 12.3")
    wanted = dict(line.split(">=") for line in (ROOT / "requirements.txt").read_text().split() if ">=" in line)
    assert {name: wanted[name] for name in serving.FLOORS} == floors


# ---- a running server

PAGES = ("", "dataset", "train", "sanity_check", "review", "export", "effect", "predict", "report")
SECRET = b"a-line-that-only-this-file-has-5d1f"


@contextlib.contextmanager
def app(home: Path, *options: str, **more: str) -> Iterator[tuple[int, int]]:
    """`streamlit run` with these options on a free port, stopped at the end; port and process id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    with (home / "server.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "streamlit", "run", "streamlit_app.py", "--server.port", str(port), "--server.headless", "true", *options],
            cwd=ROOT, env=os.environ | {"PANORAMA_HOME": str(home)} | more, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            for _ in range(300):
                with contextlib.suppress(OSError):
                    if request("GET", port, "/_stcore/health")[0] == 200:
                        break
                assert process.poll() is None, (home / "server.log").read_text()
                time.sleep(0.1)
            yield port, process.pid
        finally:
            process.terminate()
            process.wait(timeout=20)


def request(method: str, port: int, path: str, headers: dict[str, str] | None = None) -> tuple[int, bytes, dict[str, str]]:
    """Status, body and headers of one request; its path goes out as it is written."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.putrequest(method, path, skip_host="Host" in (headers or {}), skip_accept_encoding=True)
        for name, value in ({"Content-Length": "0"} | (headers or {})).items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.read(2_000_000), {name.lower(): value for name, value in answer.getheaders()}
    finally:
        connection.close()


def said(port: int, page: str, headers: dict[str, str]) -> bytes:
    """All that the server sends to a browser tab that opens a page, as bytes. Raises WebSocketException when it takes no tab."""
    host = headers.get("Host")
    place = socket.create_connection(("127.0.0.1", port), timeout=10)
    more = {name: value for name, value in headers.items() if name not in ("Host", "Origin")}
    with connect(
        f"ws://{host or f'127.0.0.1:{port}'}/_stcore/stream", sock=place, origin=headers.get("Origin"), subprotocols=["streamlit"],  # type: ignore[arg-type,list-item]
        additional_headers=more, compression=None, max_size=None, open_timeout=10, proxy=None,
    ) as tab:  # fmt: skip
        message = BackMsg()
        message.rerun_script.page_name = page
        tab.send(message.SerializeToString())
        parts = []
        while True:
            got = tab.recv(timeout=30)
            assert isinstance(got, bytes)
            parts.append(got)
            forward = ForwardMsg.FromString(got)
            if forward.WhichOneof("type") == "script_finished" and forward.script_finished == ForwardMsg.FINISHED_SUCCESSFULLY:
                return b"".join(parts)


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int, Path]]:
    """A server as the project starts it, with a data set known; port, process id, and a file that nobody may read through it."""
    home = tmp_path_factory.mktemp("serving")
    secret = home / "secret.txt"
    secret.write_bytes(SECRET)
    with app(home) as (port, pid):
        yield port, pid, secret


def climbing(secret: Path) -> list[str]:
    """Paths that would reach the file on a server that joins what it is sent to a folder of its own."""
    plain = str(secret)
    up = "../" * 16
    quoted = urllib.parse.quote(plain)
    ways = [
        up + plain[1:],
        plain,
        "/" + plain,
        up.replace(".", "%2e") + plain[1:],
        up.replace("/", "%2f") + urllib.parse.quote(plain[1:], safe=""),
        up.replace(".", "%252e").replace("/", "%252f") + plain[1:].replace("/", "%252f"),
        up.replace("../", "....//") + plain[1:],
        up.replace("../", "..%5c") + plain[1:],
        up.replace("../", "..\\") + plain[1:].replace("/", "\\"),
        up.replace("../", "%c0%ae%c0%ae/") + plain[1:],
        up.replace("../", "..;/") + plain[1:],
        "file://" + quoted,
        up + plain[1:] + "%00.png",
    ]
    folders = (
        "/",
        "/static/",
        "/media/",
        "/component/",
        "/component/x/",
        "/_stcore/bidi-components/",
        "/app/static/",
        "/_stcore/upload_file/",
    )
    return [folder + way for folder in folders for way in ways]


def leaking(port: int, paths: list[str]) -> list[str]:
    """Those of the paths whose answer has the secret in it."""
    return [path for path in paths if SECRET in request("GET", port, path)[1]]


def test_no_path_leads_out_of_what_is_served(outside: tuple[int, int, Path]) -> None:
    port, _, secret = outside
    paths = climbing(secret)
    assert len(paths) > 100
    assert leaking(port, paths) == []
    for path in (
        "/panorama/ui/__init__.py",
        "/streamlit_app.py",
        "/.streamlit/config.toml",
        "/workspace",
        "/.git/config",
        "/app/static/README.md",
    ):
        status, body, _ = request("GET", port, path)
        assert status == 404 or b"<!doctype html>" in body[:2000].lower(), path


def test_the_probes_find_a_server_that_joins_paths(tmp_path: Path) -> None:
    """The control: a server as careless as those probes look for."""

    class Careless(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = urllib.parse.unquote(urllib.parse.unquote(self.path)).removeprefix("/static/")
            try:
                body = (tmp_path / path).read_bytes()
            except (OSError, ValueError):
                body = b"no"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    secret = tmp_path / "secret.txt"
    secret.write_bytes(SECRET)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Careless) as careless:
        threading.Thread(target=careless.serve_forever, daemon=True).start()
        assert len(leaking(careless.server_port, climbing(secret))) >= 4
        careless.shutdown()


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "https://127.0.0.1.evil.example"},
        {"Origin": "http://localhost.evil.example:8501"},
        {"Origin": "null"},
        {"Origin": "file://"},
        {"Host": "evil.example"},
        {"Host": "evil.example:8501", "Origin": "http://evil.example:8501"},
        {"Host": "127.0.0.1.nip.io"},
        {"Host": "192.168.1.7:8501"},
        {"Host": "localhost.evil.example"},
    ],
    ids=lambda headers: " ".join(f"{name}={value}" for name, value in headers.items()),
)
def test_a_tab_of_another_website_is_not_taken(outside: tuple[int, int, Path], headers: dict[str, str]) -> None:
    with pytest.raises(WebSocketException):
        said(outside[0], "start", headers)


def test_a_tab_of_its_own_is_taken(outside: tuple[int, int, Path]) -> None:
    port, _, _ = outside
    for headers in ({"Origin": f"http://127.0.0.1:{port}"}, {"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}"}):
        assert b"Try it on the demo" in said(port, "start", headers)


def test_nothing_can_be_sent_without_a_token(outside: tuple[int, int, Path]) -> None:
    port, _, _ = outside
    for method in ("PUT", "DELETE", "POST"):
        for path in (
            "/_stcore/upload_file/session/file",
            "/_stcore/upload_file/../../x",
            "/media/x",
            "/_stcore/agent/interact",
            "/_stcore/agent/mcp",
        ):
            for headers in ({}, {"Origin": "http://evil.example"}, {"X-Xsrftoken": "x", "Cookie": "_streamlit_xsrf=x"}):
                status, body, answered = request(method, port, path, headers)
                assert status >= 400, (method, path, headers, status, body[:200])
                assert answered.get("access-control-allow-origin", "") not in ("*", "http://evil.example")


def test_no_answer_may_be_read_by_another_website(outside: tuple[int, int, Path]) -> None:
    port, _, _ = outside
    for path in ("/", "/_stcore/health", "/_stcore/host-config", "/_stcore/metrics", "/media/x", "/review"):
        for method in ("GET", "OPTIONS"):
            answered = request(method, port, path, {"Origin": "http://evil.example"})[2]
            assert answered.get("access-control-allow-origin", "") not in ("*", "http://evil.example"), (method, path)


@pytest.mark.skipif(
    not Path("/proc/net/tcp").exists(), reason="reads which sockets are open from /proc, which this system does not have"
)
def test_it_listens_on_this_machine_only(outside: tuple[int, int, Path]) -> None:
    port, _, _ = outside
    listening = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            local, _, state = line.split()[1:4]
            address, hexadecimal = local.split(":")
            if int(hexadecimal, 16) == port and state == "0A":
                listening.append(address)
    assert listening == ["0100007F"], "127.0.0.1 as the kernel writes it"


def test_without_logging_in_no_page_shows_or_does_anything(tmp_path: Path) -> None:
    secrets = tmp_path / "secrets.toml"
    secrets.write_text(
        '[auth]\nredirect_uri = "http://127.0.0.1/oauth2callback"\ncookie_secret = "a secret of the tests"\nclient_id = "panorama"\n'
        'client_secret = "no"\nserver_metadata_url = "http://127.0.0.1:9/.well-known/openid-configuration"\n'
    )
    with app(tmp_path, "--secrets.files", str(secrets)) as (port, _):
        for page in PAGES:
            shown = said(port, page, {"Origin": f"http://127.0.0.1:{port}", "Cookie": "_streamlit_user=forged"})
            assert b"Log in to go on" in shown, page
            assert not re.search(rb"Try it on the demo|Choose a run|No data set chosen|Draw the demo", shown), page
        assert not (tmp_path / "reviews.sqlite").exists()


def test_a_server_set_up_to_let_others_in_shows_why_it_does_not_run(tmp_path: Path) -> None:
    with app(tmp_path, "--server.enableXsrfProtection", "false", "--server.enableCORS", "false") as (port, _):
        for page in PAGES:
            shown = said(port, page, {"Origin": f"http://127.0.0.1:{port}"})
            assert b"panorama does not run like this" in shown, page
            assert b"Try it on the demo" not in shown


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace, which this machine does not have")
def test_the_whole_job_asks_nobody_on_the_network(tmp_path: Path) -> None:
    """From drawing to suspects and predictions: every address that a process of it connects to or sends to."""
    trace = tmp_path / "trace"
    environment = os.environ | {"PANORAMA_HOME": str(tmp_path / "home"), "OMP_WAIT_POLICY": "PASSIVE"}
    for command in (["demo", str(tmp_path / "demo"), "--images", "24"], ["check", str(tmp_path / "demo" / "data")]):
        traced = [
            "strace",
            "-f",
            "-qq",
            "-A",
            "-o",
            str(trace),
            "-e",
            "trace=connect,sendto,sendmsg",
            sys.executable,
            "-m",
            "panorama",
            *command,
        ]
        done = subprocess.run(traced, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
    assert reached(trace) == []
    subprocess.run(
        ["strace", "-qq", "-o", str(trace), "-e", "trace=connect", sys.executable, "-c", "import socket; socket.socket().connect_ex(('127.0.0.2', 9))"],
        check=True,
    )  # fmt: skip
    assert len(reached(trace)) == 1, "the control: another address is seen"


def reached(trace: Path) -> list[str]:
    """The lines of a trace that name an internet address other than 127.0.0.1 and ::1."""
    lines = trace.read_text(errors="replace").splitlines()
    return [line for line in lines if re.search(r"AF_INET6?", line) and not re.search(r'"127\.0\.0\.1"|"::1"', line)]


def serve(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "panorama", "serve", *options]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("people", [(), ("--people", "login")])
def test_the_command_refuses_a_network_without_anybody_who_checks_people(people: tuple[str, ...], tmp_path: Path) -> None:
    told = serve("--address", "0.0.0.0", *people, HOME=str(tmp_path))
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr.startswith("panorama: The server listens on 0.0.0.0")
    assert told.stderr.count("\n") == 1


def test_the_command_refuses_to_take_any_name_for_its_own() -> None:
    told = serve("--people", "proxy", "--host", "*")
    assert told.returncode == 1
    assert "allowedHosts" in told.stderr


def test_names_that_a_proxy_knows_it_by_are_taken(tmp_path: Path) -> None:
    """`--host` adds a name; foreign ones stay refused, whatever the environment says."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    process = subprocess.Popen(
        [sys.executable, "-m", "panorama", "serve", "--port", str(port), "--people", "proxy", "--host", "labels.example.org"],
        cwd=ROOT, env=os.environ | {"PANORAMA_HOME": str(tmp_path), "STREAMLIT_SERVER_ENABLE_CORS": "false", "STREAMLIT_SERVER_ALLOWED_HOSTS": '["*"]'},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(300):
            with contextlib.suppress(OSError):
                if request("GET", port, "/_stcore/health")[0] == 200:
                    break
            time.sleep(0.1)
        known = {"Host": "labels.example.org", "Origin": "https://labels.example.org"}
        assert b"Try it on the demo" in said(port, "start", known)
        for foreign in ({"Host": "evil.example", "Origin": "https://evil.example"}, {**known, "Origin": "https://evil.example"}):
            with pytest.raises(WebSocketException):
                said(port, "start", foreign)
    finally:
        process.terminate()
        process.wait(timeout=20)
