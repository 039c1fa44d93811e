"""The curator UI in a real browser, over a real server on a loopback port."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import uvicorn

from infra.platform import Platform
from selection.embedding import embed
from selection.fleet.frames import Frame
from service.app import create_app
from service.curator import Curator
from service.server import bind

if TYPE_CHECKING:
    from playwright.sync_api import ConsoleMessage, Page

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture
def address(small_platform: Platform, fleet: list[Frame]) -> Iterator[str]:
    """Base address of a server whose fleet is embedded."""
    assert fleet
    curator = Curator(small_platform)
    embed.embed_missing(small_platform, curator.encoder())
    listener = bind(small_platform.settings.model_copy(update={"port": 0}))
    app = create_app(small_platform, curator=curator)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="web server")
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(20)
    listener.close()


@pytest.fixture
def page(address: str) -> Iterator[Page]:
    """A page of a fresh browser. The test fails on any script error, refused resource or request to another place."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        if os.environ.get("CI") == "true":
            pytest.fail("there is no chromium; .ci/run installs it")
        pytest.skip("there is no chromium")
    from playwright.sync_api import sync_playwright

    faults: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        opened = browser.new_page(viewport={"width": 1440, "height": 900})
        opened.set_default_timeout(20_000)
        opened.on("pageerror", lambda error: faults.append(str(error)))
        opened.on("console", lambda message: faults.append(message.text) if _is_fault(message) else None)
        opened.on("request", lambda request: faults.append(request.url) if not _is_ours(request.url, address) else None)
        yield opened
        browser.close()
    assert faults == []


def _is_fault(message: ConsoleMessage) -> bool:
    """Chromium also logs an answer that refuses something with good reason, which the page then tells the person."""
    return message.type == "error" and not any(f"status of {refusal}" in message.text for refusal in (409, 422))


def _is_ours(url: str, address: str) -> bool:
    return url.startswith((address, "blob:", "data:"))


def has_no_side_scroll(page: Page) -> bool:
    """Whether the page fits its window; what is wider scrolls in a place of its own."""
    fits = "[document.documentElement, ...document.querySelectorAll('.scroll')].every((one) => one.scrollWidth <= one.clientWidth)"
    return bool(page.evaluate(fits))
