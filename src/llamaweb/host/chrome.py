"""Find Chromium, start it headless with WebGPU, and be sure that it ends."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamaweb.errors import HostError
from llamaweb.host.browser import SCRIPT_SECONDS, USUAL, WHEN_THERE, BrowserChoice, unanswered, value_of

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
_MAC_APPS = ("Google Chrome.app/Contents/MacOS/Google Chrome", "Chromium.app/Contents/MacOS/Chromium")
# Debian keeps the driver here on some releases, off the PATH.
_DRIVERS = ("/usr/lib/chromium/chromedriver", "/usr/lib/chromium-browser/chromedriver")
INSTALL = "install Chromium (Debian: `apt-get install chromium chromium-driver`) or name a browser with --chrome PATH"

_QUIET = (
    "--headless=new",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    # Containers often have a tiny /dev/shm.
    "--disable-dev-shm-usage",
)
# Developer features: timestamps that are not rounded to 0.1 ms, and the adapter's full name.
_WEBGPU = ("--enable-unsafe-webgpu", "--enable-webgpu-developer-features", "--ignore-gpu-blocklist")
_SOFTWARE = (
    "--use-webgpu-adapter=swiftshader",
    # Workgroup memory is set to zero by a loop in the shader: what the adapter makes of the extension for it is a store
    # for each word, and takes seconds to compile.
    "--disable-dawn-features=use_vulkan_zero_initialize_workgroup_memory_extension",
    "--enable-features=Vulkan",
    "--use-vulkan=swiftshader",
)
_REAL = (
    "--enable-features=Vulkan,VulkanFromANGLE,DefaultANGLEVulkan",
    "--use-angle=vulkan",
    "--use-vulkan=native",
    "--disable-vulkan-surface",
)


def flags(choice: BrowserChoice = USUAL) -> list[str]:
    """Chromium's command line for `choice`."""
    adapter: Sequence[str] = ()
    if sys.platform == "linux":
        adapter = _REAL if choice.gpu else _SOFTWARE
    elif not choice.gpu:
        adapter = _SOFTWARE[:2]
    # Chromium refuses its sandbox to root.
    sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    return [*_QUIET, *sandbox, *_WEBGPU, *adapter, *choice.flags]


_LONGEST_FOLDER = 107 - len("/org.chromium.Chromium.XXXXXX/SingletonSocket")


def find_browser(path: str | None = None) -> str:
    """The browser's executable: `path` if given, else the first known name; HostError says what to install."""
    if path is not None:
        found = shutil.which(path)
        if found is None:
            raise HostError(f"There is no browser at {path}; {INSTALL}.")
        return found
    for name in NAMES:
        if found := shutil.which(name):
            return found
    for app in _MAC_APPS:
        if sys.platform == "darwin" and Path("/Applications", app).exists():
            return str(Path("/Applications", app))
    raise HostError(f"No Chromium was found; {INSTALL}.")


def find_driver(browser: str) -> str | None:
    """chromedriver from PATH or beside the browser; None leaves it to selenium, which can fetch one."""
    beside = Path(os.path.realpath(browser)).parent / "chromedriver"
    candidates = [shutil.which("chromedriver"), str(beside), *_DRIVERS]
    return next((c for c in candidates if c and os.access(c, os.X_OK)), None)


def start(choice: BrowserChoice = USUAL, temporary: Path | None = None) -> Chrome:
    """A headless browser under selenium; the caller quits it. temporary: where its temporary files go, if not where
    all do. Raises HostError with one sentence."""
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    browser = find_browser(choice.path)
    options = ChromeOptions()
    options.binary_location = browser
    for flag in flags(choice):
        options.add_argument(flag)
    # A session of its own: Ctrl-C in the terminal must reach us, not the driver that we still need to end the browser.
    env = {**os.environ, "TMPDIR": str(temporary)} if temporary else None
    service = ChromeService(find_driver(browser), env=env, popen_kw={"start_new_session": True})
    try:
        driver = Chrome(options=options, service=service)
    except WebDriverException as error:
        with contextlib.suppress(Exception):
            service.stop()
        raise HostError(_sentence(browser, error.msg or type(error).__name__)) from error
    driver.set_script_timeout(SCRIPT_SECONDS)
    # selenium's own HTTP client gives up after two minutes unless told otherwise.
    if not isinstance(driver.command_executor, str):
        driver.command_executor.client_config.timeout = SCRIPT_SECONDS + 30
    return driver


def _temporary() -> Path:
    """A folder for the temporary files of one browser, since Chromium leaves some behind. Raises HostError where none
    can be made: Chromium ends without a word of it, and takes TMPDIR as it is where Python looks further."""
    where = os.environ.get("TMPDIR") or tempfile.gettempdir()
    try:
        folder = Path(tempfile.mkdtemp(prefix="llamaweb-", dir=where))
        (folder / "probe").write_bytes(bytes(4096))
        (folder / "probe").unlink()
    except OSError as error:
        raise HostError(
            f"The folder for temporary files, {where}, takes none ({error.strerror}); set TMPDIR to another one."
        ) from error
    return folder


def stop(driver: Chrome) -> None:
    """End the browser and its driver; what is already gone is no error."""
    with contextlib.suppress(Exception):
        driver.quit()


class Chromium:
    """A browser under selenium, as `browser.Browser`, that leaves nothing behind."""

    def __init__(self, choice: BrowserChoice) -> None:
        self._temporary = _temporary()
        try:
            # The path of a socket in there is of 107 characters at most.
            self.driver = start(choice, self._temporary if len(str(self._temporary)) <= _LONGEST_FOLDER else None)
        except BaseException:
            shutil.rmtree(self._temporary, ignore_errors=True)
            raise

    def get(self, url: str) -> None:
        self.driver.get(url)

    def in_new_tab(self, url: str, function: str, argument: Any) -> Any:
        from selenium.common.exceptions import WebDriverException

        driver = self.driver
        first = driver.current_window_handle
        driver.switch_to.new_window("tab")
        try:
            driver.get(url)
            script = f"const [name, argument, done] = arguments; ({WHEN_THERE})(name, argument).then(done);"
            answer = driver.execute_async_script(script, function, argument)
        except WebDriverException as error:
            raise unanswered(url, error.msg or "") from error
        finally:
            driver.close()
            driver.switch_to.window(first)
        return value_of(url, answer)

    def quit(self) -> None:
        stop(self.driver)
        shutil.rmtree(self._temporary, ignore_errors=True)


def _sentence(browser: str, message: str) -> str:
    supported = re.search(r"only supports Chrome version (\d+)", message)
    current = re.search(r"[Cc]urrent browser version is (\d+)", message)
    if supported and current:
        return (
            f"chromedriver is for Chromium {supported[1]} and {browser} is version {current[1]}; "
            "install the two in the same version (Debian: `apt-get install chromium chromium-driver`)."
        )
    first = message.strip().splitlines()[0].rstrip(".") if message.strip() else "no reason given"
    return f"{browser} did not start under chromedriver ({first}); {INSTALL}."
