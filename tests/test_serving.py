"""Who the server lets in: settings that are refused, and a running server under probes from outside."""

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from websockets.exceptions import WebSocketException

from panorama import serving

sys.path.insert(0, str(ROOT))
from tools.torture.server import (
    FOREIGN_TABS,
    PAGES,
    SECRET,
    SENT,
    app,
    careless_server,
    climbing,
    leaking,
    login_secrets,
    reached,
    readable_elsewhere,
    request,
    said,
    sent_without_a_token,
    wait_for,
)

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
    assert serving.too_old((floors | {"torch": "2.13.0+cu130"}).__getitem__) == ()
    (said,) = serving.too_old((floors | {"pillow": "12.9.9"}).__getitem__)
    assert said.startswith("pillow 12.9.9 is older than 13.0")
    wanted = dict(line.split(">=") for line in (ROOT / "requirements.txt").read_text().split() if ">=" in line)
    assert {name: wanted[name] for name in serving.FLOORS} == floors


# ---- a running server


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int, Path]]:
    """A server as the project starts it, with a data set known; port, process id, and a file that nobody may read through it."""
    home = tmp_path_factory.mktemp("serving")
    secret = home / "secret.txt"
    secret.write_bytes(SECRET)
    with app(home) as (port, pid):
        yield port, pid, secret


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

    secret = tmp_path / "secret.txt"
    secret.write_bytes(SECRET)
    with careless_server(tmp_path) as port:
        assert len(leaking(port, climbing(secret))) >= 4


@pytest.mark.parametrize(
    "headers",
    FOREIGN_TABS,
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
    assert len(SENT) == 45
    assert sent_without_a_token(outside[0]) == []


def test_no_answer_may_be_read_by_another_website(outside: tuple[int, int, Path]) -> None:
    assert readable_elsewhere(outside[0]) == []


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
    with app(tmp_path, "--secrets.files", str(login_secrets(tmp_path))) as (port, _):
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


def test_the_command_refuses_a_workspace_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    told = serve(PANORAMA_HOME=str(tmp_path / "taken"))
    assert (told.returncode, told.stdout) == (1, "")
    assert told.stderr.startswith(f"panorama: Nothing can be written in the workspace {tmp_path / 'taken'}: ")
    assert told.stderr.count("\n") == 1


def test_names_that_a_proxy_knows_it_by_are_taken(tmp_path: Path) -> None:
    """`--host` adds a name; foreign ones stay refused, whatever the environment says."""
    log = tmp_path / "server.log"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    process = subprocess.Popen(
        [sys.executable, "-m", "panorama", "serve", "--port", str(port), "--people", "proxy", "--host", "labels.example.org"],
        cwd=ROOT, env=os.environ | {"PANORAMA_HOME": str(tmp_path), "STREAMLIT_SERVER_ENABLE_CORS": "false", "STREAMLIT_SERVER_ALLOWED_HOSTS": '["*"]'},
        stdout=log.open("wb"), stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        wait_for(process, port, log)
        known = {"Host": "labels.example.org", "Origin": "https://labels.example.org"}
        assert b"Try it on the demo" in said(port, "start", known)
        for foreign in ({"Host": "evil.example", "Origin": "https://evil.example"}, {**known, "Origin": "https://evil.example"}):
            with pytest.raises(WebSocketException):
                said(port, "start", foreign)
    finally:
        process.terminate()
        process.wait(timeout=20)
