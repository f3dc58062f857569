"""The browser that is on the machine; none is ever fetched."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def browser() -> Iterator[Browser]:
    """Within, a browser without a window. Skips the test where none is installed."""
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("Chromium is not installed (on Debian and Ubuntu: apt install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # no sandbox: it needs rights that a container's root has not got, and the pages are our own
        found = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"], timeout=180_000)
        try:
            yield found
        finally:
            found.close()
