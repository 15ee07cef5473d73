"""A running server under probes from outside: paths that climb, tabs of other websites, writes without a token, and decisions without a login."""

import contextlib
import http.client
import http.server
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from tools.torture.checks import ROOT, Check, Outcome

PAGES = ("", "dataset", "train", "sanity_check", "review", "export", "effect", "predict", "report")
SECRET = b"a-line-that-only-this-file-has-5d1f"


@contextlib.contextmanager
def app(home: Path, *options: str, before: Sequence[str] = (), **more: str) -> Iterator[tuple[int, int]]:
    """`streamlit run` with these options on a free port, stopped at the end; port and process id. before: what comes before the command."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    with (home / "server.log").open("ab") as log:
        process = subprocess.Popen(
            [*before, sys.executable, "-m", "streamlit", "run", "streamlit_app.py", "--server.port", str(port), "--server.headless", "true", *options],
            cwd=ROOT, env=os.environ | {"PANORAMA_HOME": str(home)} | more, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            wait_for(process, port, home / "server.log")
            yield port, process.pid
        finally:
            process.terminate()
            process.wait(timeout=20)


def wait_for(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    """Until the server answers. Raises AssertionError with its log when it ended instead."""
    for _ in range(300):
        with contextlib.suppress(OSError):
            if request("GET", port, "/_stcore/health")[0] == 200:
                return
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)


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


FOREIGN_TABS: list[dict[str, str]] = [
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
]
_HEADERS: tuple[dict[str, str], ...] = (
    {},
    {"Origin": "http://evil.example"},
    {"X-Xsrftoken": "x", "Cookie": "_streamlit_xsrf=x"},
)
_PLACES = (
    "/_stcore/upload_file/session/file",
    "/_stcore/upload_file/../../x",
    "/media/x",
    "/_stcore/agent/interact",
    "/_stcore/agent/mcp",
)
SENT = [(method, path, headers) for method in ("PUT", "DELETE", "POST") for path in _PLACES for headers in _HEADERS]
_READ = [
    (method, path)
    for path in ("/", "/_stcore/health", "/_stcore/host-config", "/_stcore/metrics", "/media/x", "/review")
    for method in ("GET", "OPTIONS")
]


def sent_without_a_token(port: int) -> list[str]:
    """What was taken of what has no token, or may be read by another website."""
    wrong = []
    for method, path, headers in SENT:
        status, _, answered = request(method, port, path, headers)
        if status < 400 or _is_open(answered):
            wrong.append(f"{method} {path} {headers}: {status} {answered.get('access-control-allow-origin', '')}")
    return wrong


def readable_elsewhere(port: int) -> list[str]:
    """The answers that the browser would give to another website."""
    return [
        f"{method} {path}"
        for method, path in _READ
        if _is_open(request(method, port, path, {"Origin": "http://evil.example"})[2])
    ]


def _is_open(answered: dict[str, str]) -> bool:
    return answered.get("access-control-allow-origin", "") in ("*", "http://evil.example")


def taken_tabs(port: int) -> list[str]:
    """The tabs of other websites that get a page."""
    wrong = []
    for headers in FOREIGN_TABS:
        with contextlib.suppress(WebSocketException):
            said(port, "start", headers)
            wrong.append(f"a tab with {headers} is taken")
    return wrong


class _Careless(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        path = urllib.parse.unquote(urllib.parse.unquote(self.path)).removeprefix("/static/")
        try:
            body = (self.server.folder / path).read_bytes()  # type: ignore[attr-defined]
        except (OSError, ValueError):
            body = b"no"
        self.send_response(200)
        self.send_header("Access-Control-Allow-Origin", "*")
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_DELETE = do_OPTIONS = do_POST  # noqa: N815

    def log_message(self, *_: object) -> None: ...


@contextlib.contextmanager
def careless_server(folder: Path) -> Iterator[int]:
    """The control: a server that joins what it is sent to a folder, takes everything and lets everybody read; its port."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Careless) as server:
        server.folder = folder  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def login_secrets(folder: Path) -> Path:
    """A file that turns the login on, with a provider that does not answer."""
    secrets = folder / "secrets.toml"
    secrets.write_text(
        '[auth]\nredirect_uri = "http://127.0.0.1/oauth2callback"\ncookie_secret = "a secret of the tests"\nclient_id = "panorama"\n'
        'client_secret = "no"\nserver_metadata_url = "http://127.0.0.1:9/.well-known/openid-configuration"\n'
    )
    return secrets


def reached(trace: Path) -> list[str]:
    """The lines of a trace that name an internet address other than 127.0.0.1 and ::1."""
    lines = trace.read_text(errors="replace").splitlines()
    return [line for line in lines if re.search(r"AF_INET6?", line) and not re.search(r'"127\.0\.0\.1"|"::1"', line)]


# --- what somebody does who has not logged in

Messages = list[list[bytes]]  # what a browser tab sends, for each tab


def world(home: Path) -> None:
    """A workspace with a complete run to review, and a run that nobody has started."""
    sys.path.insert(0, str(ROOT / "benchmarks"))  # scripts, which import each other by name
    from large import build

    from tools.torture.training import new_run, pictures

    build(home, 40, 3)
    new_run(pictures(home / "pictures", 24), home)


def effects(home: Path) -> dict[str, object]:
    """What a visitor can have done to a workspace: decisions, the choice of a data set, trainings."""
    decisions = 0
    if (home / "reviews.sqlite").exists():
        with contextlib.closing(sqlite3.connect(home / "reviews.sqlite")) as db:
            decisions = db.execute("SELECT count(*) FROM decisions").fetchone()[0]
    return {
        "decisions": decisions,
        "the data set": (home / "dataset.json").read_bytes(),
        "trainings": len(list(home.glob("runs/*/launched"))),
    }


def acted(port: int, home: Path) -> Messages:
    """Decides a cell, chooses another data set and starts a training, as a person does who may; what was sent."""
    from reviewers import OnPage
    from streamlit_client import Tab

    from panorama.runs import list_runs

    recorded: Messages = []

    class Recorded(Tab):
        def rerun(self, fragment: str = "") -> None:
            if not hasattr(self, "sent"):
                self.sent: list[bytes] = []
                recorded.append(self.sent)
                send = self._socket.send
                self._socket.send = lambda data: (self.sent.append(data), send(data))[1]  # type: ignore[method-assign,assignment]
            super().rerun(fragment)

    import reviewers

    address = f"http://127.0.0.1:{port}"
    started, finished = sorted(list_runs(home), key=lambda run: run.state() == "complete")
    reviewers.Tab = Recorded  # type: ignore[misc]
    try:
        reviewer = OnPage(address, "somebody", query=f"run={finished.id}")
        reviewer(0)
        reviewer.tab.close()
    finally:
        reviewers.Tab = Tab  # type: ignore[misc]
    with Recorded(address, "dataset") as tab:
        tab.settle()
        tab.type_text("folder", str(started.source.root))
        tab.settle()
        tab.click("use-folder")
        tab.settle()
    with Recorded(address, "train", f"run={started.id}") as tab:
        tab.settle()
        tab.click("resume")
        tab.settle()
    started.ask_to_stop()
    until = time.monotonic() + 60
    while started.state() in ("starting", "running") and time.monotonic() < until:
        time.sleep(0.1)
    return recorded


def replayed(port: int, messages: Messages, headers: dict[str, str]) -> int:
    """Sends all of it again, each tab's messages in turn; how many."""
    for tab_messages in messages:
        with connect(
            f"ws://127.0.0.1:{port}/_stcore/stream", subprotocols=["streamlit"], additional_headers=headers, compression=None, max_size=None, proxy=None,  # type: ignore[list-item]
        ) as tab:  # fmt: skip
            for message in tab_messages:
                tab.send(message)
                with contextlib.suppress(TimeoutError):
                    while True:
                        got = ForwardMsg.FromString(tab.recv(timeout=5))  # type: ignore[arg-type]
                        if got.WhichOneof("type") == "script_finished":
                            break
    return sum(map(len, messages))


def without_login(folder: Path, *, login: bool) -> tuple[int, list[str]]:
    """Acts on a server without a login, and sends the same to one where it is on and nobody is logged in; messages sent, and what they did there."""
    wrong: list[str] = []
    world(folder / "whole")
    for name in ("open", "closed"):
        shutil.copytree(folder / "whole", folder / name)
    before = effects(folder / "closed")
    with app(folder / "open") as (port, _):
        messages = acted(port, folder / "open")
    after = effects(folder / "open")
    wrong += [
        f"where it is allowed, {what} is as before: the messages are no probe" for what in before if before[what] == after[what]
    ]
    options = ("--secrets.files", str(login_secrets(folder))) if login else ()
    sent = 0
    with app(folder / "closed", *options) as (port, _):
        for headers in ({}, {"Cookie": "_streamlit_user=forged"}):
            sent += replayed(port, messages, headers)
        time.sleep(1)
    after = effects(folder / "closed")
    wrong += [
        f"without logging in {what} changed: {before[what]!r} to {after[what]!r}"
        for what in before
        if before[what] != after[what]
    ]
    return sent, wrong


# --- the checks


def probed(quick: bool) -> Outcome:
    """The server as it is started, from outside."""
    if quick:
        return Outcome(skipped="tests/test_serving.py sends the same probes")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        secret = home / "secret.txt"
        secret.write_bytes(SECRET)
        with app(home) as (port, _):
            wrong = [f"the file outside is read by {path}" for path in leaking(port, climbing(secret))]
            wrong += sent_without_a_token(port) + readable_elsewhere(port) + taken_tabs(port)
            if b"Try it on the demo" not in said(port, "start", {"Origin": f"http://127.0.0.1:{port}"}):
                wrong.append("its own tab is not taken")
    tried = len(climbing(secret)) + len(SENT) + len(_READ) + len(FOREIGN_TABS) + 1
    return Outcome(tried, tried - 1 - len(wrong), tuple(wrong))


def probed_control(quick: bool) -> Outcome:
    """A server that joins paths and takes everything, and Streamlit without its checks."""
    del quick
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        secret = home / "secret.txt"
        secret.write_bytes(SECRET)
        with careless_server(home) as port:
            found = [leaking(port, climbing(secret)), sent_without_a_token(port), readable_elsewhere(port)]
        with app(home, "--server.enableXsrfProtection=false", "--server.enableCORS=false", "--server.allowedHosts=*") as (
            port,
            _,
        ):
            found.append(taken_tabs(port))
    if not all(found):
        raise AssertionError(f"a kind of probe sees nothing: {[len(part) for part in found]}")
    return Outcome(1, 0, tuple(sentence for part in found for sentence in part))


def closed(quick: bool, login: bool = True) -> Outcome:
    """Decisions, a choice of data and a training by somebody who has not logged in."""
    if quick:
        return Outcome(skipped="starts two servers and a training: run it without --quick")
    with tempfile.TemporaryDirectory() as folder:
        sent, wrong = without_login(Path(folder).resolve(), login=login)
    return Outcome(sent, sent if not wrong else 0, tuple(wrong))


def quiet(quick: bool, outgoing: bool = False) -> Outcome:
    """Every address that the server connects to or sends to while all its pages are shown and somebody decides."""
    if quick:
        return Outcome(skipped="starts a traced server: run it without --quick")
    if shutil.which("strace") is None:
        return Outcome(skipped="needs strace, which this machine does not have")
    with tempfile.TemporaryDirectory() as folder:
        home, trace = Path(folder).resolve() / "home", Path(folder) / "trace"
        before = ["strace", "-D", "-f", "-qq", "-o", str(trace), "-e", "trace=connect,sendto,sendmsg,sendmmsg"]
        if outgoing:
            code = "import socket; socket.socket().connect_ex(('127.0.0.2', 9))"
            subprocess.run([*before[:1], *before[2:], sys.executable, "-c", code], check=True)
            return Outcome(1, 0, tuple(reached(trace)))
        world(home)
        with app(home, before=before) as (port, _):
            for page in PAGES:
                said(port, page, {"Origin": f"http://127.0.0.1:{port}"})
            acted(port, home)
        time.sleep(1)
        calls = len(trace.read_text(errors="replace").splitlines())
        return Outcome(len(PAGES) + 3, 0, tuple(reached(trace)), measured={"calls seen": f"{calls:,}"})


CHECKS = (
    Check(
        "server-probed", "paths that climb, writes without a token, answers for other websites, tabs of other websites",
        probed, probed_control, "a server that joins paths and takes everything; Streamlit without its checks", 180,
    ),
    Check(
        "server-closed", "what decides a cell, chooses a data set and starts a training is sent again by somebody who has not logged in",
        closed, lambda quick: closed(quick, login=False), "a server without a login", 300,
    ),
    Check(
        "server-quiet", "addresses that the server connects to while every page is shown, a cell decided, a training started",
        quiet, lambda quick: quiet(quick, outgoing=True), "a program that connects elsewhere", 300,
    ),
)  # fmt: skip
