"""Whether the server may run as it is set up: settings that would let others in are refused, in words that say what to do.

Checked before `panorama serve` starts anything, and again on every page, for `streamlit run` takes options of its own and reads
`.streamlit/config.toml` only from where it is started.
"""

import functools
import importlib.metadata
import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Any

PEOPLE = "PANORAMA_PEOPLE"  # who checks those that come in over a network: "login" (panorama's own) or "proxy"
FLOORS = {
    "streamlit": (1, 54),
    "pillow": (13, 0),
    "torch": (2, 10),
}  # requirements.txt says the same; older ones have known holes

SAFE: dict[str, Any] = {  # what `panorama serve` starts with, whatever a file or the environment says
    "server.enableCORS": True,
    "server.enableXsrfProtection": True,
    "server.enableStaticServing": False,
    "global.developmentMode": False,
    "browser.gatherUsageStats": False,
    "client.showErrorDetails": "type",
}
_HARM = {
    "server.enableCORS": "any website that somebody has open could talk to this server",
    "server.enableXsrfProtection": "any website that somebody has open could send files to this server",
    "server.enableStaticServing": "files could be fetched without the app",
    "server.enableAgentApi": "a program without a browser could decide as if it were a person",
    "global.developmentMode": "checks of where a request comes from are relaxed",
    "browser.gatherUsageStats": "the browser would report to a third party what the app is used for",
}


def weaknesses(setting: Callable[[str], Any], environment: Mapping[str, str], *, login: bool) -> list[str]:
    """A sentence for each setting that is weaker than panorama promises; none when all is well.

    setting: gives the value of a Streamlit option by its name; None for one that this version of Streamlit does not have. login: whether an OpenID Connect login is configured.
    """
    found = []
    for name, harm in _HARM.items():
        wanted = SAFE.get(name, False)  # the agent API is newer than the oldest Streamlit that will do
        if setting(name) not in (wanted, None):
            found.append(f"{name} is {setting(name)!r}, so {harm}. Set it to {wanted!r}.")
    if setting("client.showErrorDetails") in ("full", True, "true"):
        found.append('client.showErrorDetails is "full", so errors would show code and paths. Set it to "type".')
    if "*" in (setting("server.corsAllowedOrigins") or []):
        found.append('server.corsAllowedOrigins has "*", so any website could talk to this server. Name the sites, or none.')
    hosts = setting("server.allowedHosts") or []
    if not hosts or "*" in hosts:
        found.append(
            'server.allowedHosts is empty or has "*", so a website can reach this server by giving its address a name of its own. '
            'Name the hosts, for example ["localhost", "127.0.0.1"].'
        )
    if setting("server.trustedUserHeaders") and environment.get(PEOPLE) != "proxy":
        found.append(
            f"server.trustedUserHeaders takes a name from what a browser sends, which anybody can send. Unset it, or say {PEOPLE}=proxy "
            "where a proxy sets these headers and removes those that came with the request."
        )
    address = setting("server.address")
    if not _is_loopback(address):
        people = environment.get(PEOPLE, "")
        where = f"on {address}" if address else "on all addresses of this machine"
        if people not in ("login", "proxy"):
            found.append(
                f"The server listens {where}, where others can reach it: they could see the pictures and decide. Listen on 127.0.0.1, or say who "
                f"checks people: {PEOPLE}=login (a login is configured) or {PEOPLE}=proxy (a proxy before this server does)."
            )
        elif people == "login" and not login:
            found.append(f"The server listens {where} and {PEOPLE} is login, but .streamlit/secrets.toml has no [auth] section.")
    return found


@functools.cache  # every page asks, and what is installed stays while a server runs
def too_old(version: Callable[[str], str] = importlib.metadata.version) -> tuple[str, ...]:
    """A sentence for each package older than what panorama is safe with; none when all is well."""
    found = []
    for name, floor in FLOORS.items():
        try:
            there = version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # importing it will say so
        if tuple(int(part) for part in re.findall(r"\d+", there)[:2]) < floor:
            wanted = ".".join(map(str, floor))
            found.append(
                f"{name} {there} is older than {wanted}, the oldest that is safe and tried. Run pip install -r requirements.txt."
            )
    return tuple(found)


def _is_loopback(address: object) -> bool:
    """Whether only this machine reaches a server on `address`."""
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(str(address)).is_loopback
    except ValueError:
        return False
