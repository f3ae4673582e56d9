"""The built book, served on the loopback address, and a browser to look at it with."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import threading
from pathlib import Path

import pytest

from cptlib import book
from cptlib.files import project_root

FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage"
).split()


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass  # the tests look at failed requests themselves


@pytest.fixture(scope="session")
def html() -> Path:
    """The folder of the built pages: $CPTLIB_BOOK_HTML, or a build from the recorded laptop runs."""
    if folder := os.environ.get("CPTLIB_BOOK_HTML"):
        return Path(folder)
    return book.make(project_root(), "laptop")


@pytest.fixture(scope="session")
def site(html):
    """The address under which the pages are served."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=html))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium; a reason to skip where there is none, a failure where $CPTLIB_REQUIRE_BROWSER is set."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        reason = "no Chromium on the PATH (Debian: apt-get install chromium)"
        if os.environ.get("CPTLIB_REQUIRE_BROWSER"):
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()
