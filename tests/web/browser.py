"""A real browser without a window: Chromium, driven by Selenium."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from tests.waiting import wait_until

SCREENSHOTS_VARIABLE = "TASKER_SCREENSHOTS"
"""A folder that gets pictures of what the tests see; those in docs/images were made so."""

WIDTH, HEIGHT = 1440, 720

ROWS = """
    return [...document.querySelectorAll(arguments[0])].map(
        row => [...row.cells].map(cell => cell.textContent.trim().replace(/\\s+/g, ' ')).join(' | '))
"""
"""The text of the cells of each row, however it is broken on the screen."""


class Browser:
    """One window."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self._driver = driver

    def open(self, url: str) -> None:
        """Go to a page."""
        self._driver.get(url)

    def rows(self, table: str) -> list[str]:
        """The text of each row of a table, by its CSS selector."""
        # In one go: the page redraws its tables at any time.
        return [str(text) for text in self._driver.execute_script(ROWS, f"{table} tbody tr")]

    def wait_for_rows(self, table: str, *parts: str) -> list[str]:
        """The rows, once there is one for each of these parts of their text."""

        def found() -> list[str] | None:
            rows = self.rows(table)
            return rows if all(any(part in row for row in rows) for part in parts) else None

        return wait_until(found, f"{parts} in {table} of {self._driver.current_url}")

    @property
    def text(self) -> str:
        """What the page says."""
        return str(self._driver.execute_script("return document.body.innerText"))

    def complaints(self) -> list[str]:
        """Errors of the page's own programs."""
        return [str(entry["message"]) for entry in self._driver.get_log("browser") if entry["level"] == "SEVERE"]

    def picture(self, name: str) -> None:
        """Take a picture, if anybody wants it."""
        folder = os.environ.get(SCREENSHOTS_VARIABLE)
        if folder:
            self._driver.save_screenshot(str(Path(folder) / f"{name}.png"))


@contextmanager
def opened(folder: Path) -> Iterator[Browser]:
    """A browser for the time of the block.

    Args:
        folder: for its profile.
    """
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("needs Chromium and its driver (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in (
        "--headless=new",
        "--no-sandbox",  # root has none
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--disable-background-networking",
        f"--window-size={WIDTH},{HEIGHT}",
        f"--user-data-dir={folder / 'profile'}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    window = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield Browser(window)
    finally:
        window.quit()
