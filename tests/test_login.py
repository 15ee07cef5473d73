"""The login against a provider that speaks OpenID Connect: a real redirect, a signed token, a cookie, and a name that nobody can type."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from browser import browser, no_traceback, server, settled
from keys import LAST_SAVED, shown_picture
from playwright.sync_api import expect

from panorama.reviews import ReviewStore
from panorama.runs import Run

pytest.importorskip("authlib", reason="needs Authlib: pip install 'streamlit[auth]'")
from provider import CLIENT, provider

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.mark.parametrize(("is_verified", "signed"), [(True, "ada@example.org"), (False, "42")])
def test_decisions_are_signed_with_what_the_provider_says_and_nothing_is_decided_before(
    chromium: str,
    trained: Callable[..., Run],
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_verified: bool,
    signed: str,
) -> None:
    finished = trained()
    store = ReviewStore(home / "reviews.sqlite")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    claims = {"sub": "42", "email": "ada@example.org", "email_verified": is_verified, "name": "Ada"}
    with provider(claims) as address:
        (tmp_path / "secrets.toml").write_text(
            f'[auth]\nredirect_uri = "http://127.0.0.1:{port}/oauth2callback"\ncookie_secret = "for a test alone, and long enough"\n'
            f'client_id = "{CLIENT}"\nclient_secret = "s"\nserver_metadata_url = "{address}/.well-known/openid-configuration"\n'
        )
        monkeypatch.setenv("STREAMLIT_SECRETS_FILES", str(tmp_path / "secrets.toml"))
        with server(home, port=port) as (app, _), browser(chromium) as opened:
            page = opened.new_context(viewport={"width": 1440, "height": 1000}).new_page()
            page.goto(f"{app}/review")
            expect(page.get_by_role("button", name="Log in")).to_be_visible(timeout=30_000)
            settled(page)
            page.keyboard.press("y")
            assert page.locator(".review, [role=textbox], [role=combobox]").count() == 0
            assert store.log(finished.fingerprint) == []

            page.get_by_role("button", name="Log in").click()
            expect(page.get_by_text(f"Logged in as {signed}")).to_be_visible(timeout=30_000)
            page.goto(f"{app}/review")
            page.wait_for_function(shown_picture(), timeout=60_000)
            settled(page)
            assert page.get_by_role("textbox", name="Your name").count() == 0, "a login is not talked over"
            page.keyboard.press("y")
            page.wait_for_function(LAST_SAVED, timeout=30_000)
            (row,) = store.log(finished.fingerprint)
            assert (row.reviewer, row.identity) == (signed, "login")
            no_traceback(page)

            page.get_by_role("button", name="Log out").click()
            expect(page.get_by_role("button", name="Log in")).to_be_visible(timeout=30_000)
