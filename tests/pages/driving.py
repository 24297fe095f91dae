"""Debian's Chromium, driven by Playwright; no browser is downloaded."""

from contextlib import contextmanager

from playwright.sync_api import sync_playwright

from tests.packed.portable_web import chromium

_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_PATIENCE_MS = 120_000
# MLflow's own UI asks who is logged in, and is told 404 by a server without users; its charts
# watch their own size.
_MLFLOWS_OWN = ("users/current", "ResizeObserver loop", "status of 404")


class Watched:
    """A browser tab, and what went wrong in it."""

    def __init__(self, page):
        self.page, self.problems, self.loaded = page, [], []
        page.set_default_timeout(_PATIENCE_MS)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("request", lambda request: self.loaded.append(request.url))

    def _console(self, message):
        if message.type == "error" and not any(one in message.text for one in _MLFLOWS_OWN):
            self.problems.append(message.text)

    def open(self, url, until):
        """Load a page and wait for an element; nothing may have gone wrong."""
        # a page of one address with another fragment would only scroll
        self.page.goto("about:blank")
        self.page.goto(url)
        self.page.wait_for_selector(until)
        assert self.problems == []
        return self.page

    def text(self):
        return self.page.inner_text("body")


@contextmanager
def browser():
    """Start Chromium; gives a function that opens a tab with Playwright's options for one."""
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium(), args=_FLAGS)

        def tab(**options):
            options = {"viewport": {"width": 1280, "height": 900}} | options
            return Watched(running.new_context(**options).new_page())

        try:
            yield tab
        finally:
            running.close()
