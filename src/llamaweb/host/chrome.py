"""Find Chromium, start it headless with WebGPU, and be sure that it ends."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from llamaweb.errors import HostError
from llamaweb.host.browser import SCRIPT_SECONDS, USUAL, Browser, BrowserChoice, end
from llamaweb.host.cdp import CDP, CDPError, Tab
from llamaweb.host.reasons import reason_of

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
_MAC_APPS = ("Google Chrome.app/Contents/MacOS/Google Chrome", "Chromium.app/Contents/MacOS/Chromium")
INSTALL = "install Chromium (Debian: `apt-get install chromium`) or name a browser with --chrome PATH"
_STOP_SECONDS = 5
_HELPERS = (Path("/usr/lib/chromium"), Path("/opt/google/chrome"))

_QUIET = (
    "--headless=new",
    "--no-first-run",
    "--no-default-browser-check",
    # No keyring of the person's is asked for.
    "--password-store=basic",
    "--use-mock-keychain",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    # Nobody is asked for the time, for an account, for advice or for updates.
    "--disable-features=NetworkTimeServiceQuerying,OptimizationHints",
    "--gaia-url=http://127.0.0.1:9",
    "--component-updater=url-source=http://127.0.0.1:9",
    # Containers often have a tiny /dev/shm.
    "--disable-dev-shm-usage",
)
_OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"
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
    sandbox = ["--no-sandbox"] if no_sandbox(choice) else []
    reach = [_OFFLINE] if choice.offline else []
    return [*_QUIET, *sandbox, *reach, *_WEBGPU, *adapter, *choice.flags]


def no_sandbox(choice: BrowserChoice = USUAL) -> str | None:
    """Why Chromium cannot have its sandbox here; None if it can. On Linux that is made of user namespaces, or by a
    helper of root's beside the browser."""
    if not sys.platform.startswith("linux"):
        return None
    if os.geteuid() == 0:
        return "root cannot have it; run the command as another user"
    browser = shutil.which(choice.path) if choice.path else next(filter(None, map(shutil.which, NAMES)), None)
    beside = [Path(os.path.realpath(browser)).parent] if browser else []
    if any(_is_roots(folder / "chrome-sandbox") for folder in (*beside, *_HELPERS)):
        return None
    return None if _namespaces() else "this machine lets users make no namespaces, and has no chrome-sandbox"


def _is_roots(helper: Path) -> bool:
    try:
        status = helper.stat()
    except OSError:
        return False
    return status.st_uid == 0 and bool(status.st_mode & stat.S_ISUID)


@cache
def _namespaces() -> bool:
    """Whether a user may make them, and be root in them; where nothing can tell, Chromium will."""
    if not (unshare := shutil.which("unshare")):
        return True
    tried = subprocess.run([unshare, "--user", "--map-root-user", "true"], capture_output=True)
    return tried.returncode == 0


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


def _for_sockets(folder: Path) -> str:
    """Where Chromium has its temporary files: `folder` if the path of a socket in there is short enough."""
    known = (str(folder), os.environ.get("TMPDIR") or tempfile.gettempdir())
    return next((each for each in known if len(each) <= _LONGEST_FOLDER), "/tmp")


class Chromium(Browser):
    """A headless Chromium with a profile that goes when it does, and leaves nothing behind. HostError with one sentence
    if it does not start."""

    def __init__(self, choice: BrowserChoice) -> None:
        browser = find_browser(choice.path)
        self._temporary = _temporary()
        command = [browser, *flags(choice), f"--user-data-dir={self._temporary / 'profile'}", "about:blank"]
        self.cdp: CDP | None = None
        try:
            self.cdp = CDP(command, SCRIPT_SECONDS, {**os.environ, "TMPDIR": _for_sockets(self._temporary)})
            self.cdp.call("Browser.getVersion")
            self.tab = next(iter(self.cdp.tabs()), None) or self.cdp.new_tab()
        except (OSError, CDPError) as error:
            self.quit()
            raise HostError(f"{browser} did not start ({reason_of(error)}); {INSTALL}.") from error
        except BaseException:
            self.quit()
            raise

    def new_tab(self) -> Tab:
        assert self.cdp  # it has started
        return self.cdp.new_tab()

    def quit(self) -> None:
        """Ends the browser, whatever it is at; what is already gone is no error."""
        if self.cdp:
            self.cdp.close()  # of which it ends by itself
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.cdp.process.wait(_STOP_SECONDS)
            end(self.cdp.process)
        shutil.rmtree(self._temporary, ignore_errors=True)
