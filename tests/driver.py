"""Chromium under selenium and chromedriver, with the command line's own flags: for tests alone, since a driver's port
lets every user of the machine in."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

from selenium.webdriver import Chrome, ChromeOptions, ChromeService

from llamaweb.host.browser import SCRIPT_SECONDS, USUAL, BrowserChoice
from llamaweb.host.chrome import find_browser, flags

# Debian keeps the driver here on some releases, off the PATH.
_DRIVERS = ("/usr/lib/chromium/chromedriver", "/usr/lib/chromium-browser/chromedriver")


def start(choice: BrowserChoice = USUAL) -> Chrome:
    """A headless browser; the caller stops it."""
    browser = find_browser(choice.path)
    options = ChromeOptions()
    options.binary_location = browser
    for flag in flags(choice):
        options.add_argument(flag)
    driver = Chrome(options=options, service=ChromeService(_driver(browser), popen_kw={"start_new_session": True}))
    driver.set_script_timeout(SCRIPT_SECONDS)
    # selenium's own HTTP client gives up after two minutes unless told otherwise.
    if not isinstance(driver.command_executor, str):
        driver.command_executor.client_config.timeout = SCRIPT_SECONDS + 30
    return driver


def stop(driver: Chrome) -> None:
    """Ends the browser and its driver; what is already gone is no error."""
    with contextlib.suppress(Exception):
        driver.quit()


def _driver(browser: str) -> str | None:
    """From PATH or beside the browser; None leaves it to selenium, which can fetch one."""
    beside = Path(os.path.realpath(browser)).parent / "chromedriver"
    candidates = [shutil.which("chromedriver"), str(beside), *_DRIVERS]
    return next((c for c in candidates if c and os.access(c, os.X_OK)), None)
