"""Find Firefox, start it headless with WebGPU, and be sure that it ends."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from llamaweb.errors import HostError
from llamaweb.host.bidi import BiDi, BiDiError, Tab, TakenError
from llamaweb.host.browser import SCRIPT_SECONDS, Browser, BrowserChoice, end
from llamaweb.host.reasons import reason_of

NAMES = ("firefox", "firefox-esr", "firefox-developer-edition", "firefox-nightly")
_MAC_APP = Path("/Applications/Firefox.app/Contents/MacOS/firefox")
_DRIVERS = ("/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d", "/usr/local/share/vulkan/icd.d")
INSTALL = "install Firefox (Debian: `apt-get install firefox-esr mesa-vulkan-drivers`)"
START_SECONDS = 60

_PREFS: dict[str, Any] = {
    "dom.webgpu.enabled": True,
    "dom.webgpu.workers.enabled": True,
    "gfx.webgpu.ignore-blocklist": True,
    # A throw-away profile asks nobody for anything, and tells nobody of anything.
    "app.normandy.enabled": False,
    "app.update.disabledForTesting": True,
    "browser.aboutwelcome.enabled": False,
    "browser.safebrowsing.malware.enabled": False,
    "browser.safebrowsing.phishing.enabled": False,
    "browser.search.update": False,
    "browser.shell.checkDefaultBrowser": False,
    "browser.startup.page": 0,
    "datareporting.policy.dataSubmissionEnabled": False,
    "dom.max_script_run_time": 0,
    "extensions.getAddons.cache.enabled": False,
    "extensions.update.enabled": False,
    "messaging-system.rsexperimentloader.enabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "services.settings.server": "data:,#none",
    "toolkit.telemetry.enabled": False,
}
# A proxy that is not there, for all but this machine.
_OFFLINE: dict[str, Any] = {"network.proxy.type": 1} | {
    f"network.proxy.{kind}{what}": value
    for kind in ("http", "ssl")
    for what, value in (("", "127.0.0.1"), ("_port", 9))
}


def find_browser() -> str:
    """Firefox's executable; HostError says what to install."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None and sys.platform == "darwin" and _MAC_APP.exists():
        found = str(_MAC_APP)
    if found is None:
        raise HostError(f"No Firefox was found; {INSTALL}.")
    return found


def environment(choice: BrowserChoice) -> dict[str, str]:
    """What Firefox is started with: without `gpu`, Mesa's software adapter is the only one that it sees (on Linux).

    HostError says what to install where there is none.
    """
    mine = {"MOZ_HEADLESS": "1", "MOZ_DISABLE_CONTENT_SANDBOX_WARNING": "1"}
    if sys.platform == "linux" and not choice.gpu:
        found = [str(path) for folder in _DRIVERS for path in sorted(Path(folder).glob("lvp_icd*.json"))]
        if not found:
            raise HostError(
                "Firefox brings no software adapter; install Mesa's (Debian: `apt-get install mesa-vulkan-drivers`), "
                "or use this machine's GPU with --gpu, if it has one."
            )
        mine |= {"VK_DRIVER_FILES": found[0], "VK_ICD_FILENAMES": found[0]}  # the second is the older name
    return {**os.environ, **mine}


class Firefox(Browser):
    """A headless Firefox with a profile that goes when it does. HostError with one sentence if it does not start."""

    def __init__(self, choice: BrowserChoice) -> None:
        browser, env = find_browser(), environment(choice)
        self._profile = Path(tempfile.mkdtemp(prefix="llamaweb-firefox-"))
        wanted = _PREFS | (_OFFLINE if choice.offline else {})
        prefs = "".join(f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in wanted.items())
        (self._profile / "user.js").write_text(prefs)
        command = [browser, "--profile", str(self._profile), "--no-remote", "--remote-debugging-port", "0"]
        # A session of its own: Ctrl-C in the terminal must reach us alone, and what it starts must end with it.
        quiet: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        self.process: Any = None
        try:
            self.process = subprocess.Popen(command, env=env, start_new_session=True, **quiet)
            self.address = self._address()
            self.bidi = BiDi(self.address, SCRIPT_SECONDS)  # at once: whoever is the first has it alone
            self.tab = self.bidi.tabs()[0]
        except TakenError as error:
            self.quit()
            raise HostError(
                f"Another program of this machine took {browser} over while it started, so that it was ended; see who "
                "else is logged in here, and try again, or use Chromium, which nobody else can reach."
            ) from error
        except (OSError, BiDiError, TimeoutError) as error:
            self.quit()
            raise HostError(f"{browser} did not start ({reason_of(error)}); {INSTALL}.") from error
        except BaseException:
            self.quit()
            raise

    def _address(self) -> str:
        """Where it listens, which it tells in its profile."""
        told, deadline = self._profile / "WebDriverBiDiServer.json", time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise BiDiError(f"it ended at once, with exit code {self.process.returncode}")
            with contextlib.suppress(OSError, ValueError, KeyError):
                server = json.loads(told.read_text())
                return f"ws://{server['ws_host']}:{server['ws_port']}"
            time.sleep(0.01)
        raise BiDiError(f"it did not listen within {START_SECONDS} seconds")

    def new_tab(self) -> Tab:
        return self.bidi.new_tab()

    def quit(self) -> None:
        """Ends the browser, whatever it is at; what is already gone is no error."""
        if self.process:
            end(self.process)
        shutil.rmtree(self._profile, ignore_errors=True)
