"""Which browser runs the page, and what is asked of one; `chrome` and `firefox` drive them."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol

from llamaweb.errors import HostError, LlamaWebError

BROWSERS = ("chromium", "firefox")
# A model's answer can take minutes on the software adapter.
SCRIPT_SECONDS = 600
_STOP_SECONDS = 5
# In place of a page's function that may not be there yet: an error as text, since browsers tell it differently.
WHEN_THERE = """async (name, argument) => {
  try {
    while (!window[name]) await new Promise((resolve) => setTimeout(resolve, 20));
    return { value: await window[name](argument) };
  } catch (error) {
    return { error: String(error) };
  }
}"""


class PageError(LlamaWebError):
    """The page's Python or its browser failed in a way that is no fault of the user's."""


@dataclass(frozen=True)
class BrowserChoice:
    """Which browser to start, and on which adapter: `gpu` takes the machine's own, otherwise the software one.

    path, flags: Chromium's executable, found by its name if None, and more of its command line. kind: of BROWSERS.
    offline: the browser reaches this machine alone.
    """

    path: str | None = None
    gpu: bool = False
    flags: tuple[str, ...] = ()
    kind: str = "chromium"
    offline: bool = False

    def __post_init__(self) -> None:
        if self.kind == "firefox" and (self.path is not None or self.flags):
            raise HostError("--chrome and --chrome-flag are Chromium's; leave them out with --browser firefox.")
        if self.path is not None and (other := other_browser(self.path)):
            raise HostError(f"--chrome takes a Chromium, and {self.path} is {other}; {_INSTEAD.get(other, _NEITHER)}.")


USUAL = BrowserChoice()
_INSTEAD = {"Firefox": "use --browser firefox"}
_NEITHER = "give a Chromium, or use --browser firefox"


def other_browser(path: str) -> str | None:
    """The name of a browser that is no Chromium, as far as its file's name tells."""
    names = {os.path.basename(path), os.path.basename(os.path.realpath(shutil.which(path) or path))}
    known = ((r"firefox|iceweasel|librewolf|waterfox", "Firefox"), (r"safari", "Safari"))
    return next((told for pattern, told in known for name in names if re.match(pattern, name, re.IGNORECASE)), None)


class BrowserError(Exception):
    """The browser refused a command, or is gone."""


class Tab(Protocol):
    """A page of the browser; its methods raise BrowserError."""

    def get(self, url: str) -> None:
        """Opens an address; returns when its document is there."""

    def run(self, function: str, *arguments: Any) -> Any:
        """What a JavaScript function of the page, async or not, gives for arguments, all of them JSON."""

    def close(self) -> None: ...


class Browser(ABC):
    """A headless browser. Its methods block, and are called in a thread of their own. tab: its first."""

    tab: Tab

    @abstractmethod
    def new_tab(self) -> Tab: ...

    @abstractmethod
    def quit(self) -> None:
        """End it, whatever it is at; what is already gone is no error."""

    def get(self, url: str) -> None:
        """Open an address in the first tab."""
        try:
            self.tab.get(url)
        except BrowserError as error:
            raise _unanswered(url, error) from error

    def in_new_tab(self, url: str, function: str, argument: Any) -> Any:
        """What a page's async `function` gives for `argument` (JSON) in a tab of its own; PageError if it fails."""
        try:
            tab = self.new_tab()
            try:
                tab.get(url)
                answer = tab.run(WHEN_THERE, function, argument)
            finally:
                tab.close()
        except BrowserError as error:
            raise _unanswered(url, error) from error
        if "error" in answer:
            raise PageError(f"{url} failed: {answer['error']}.")
        return answer["value"]


def _unanswered(url: str, reason: BrowserError) -> PageError:
    shown = url.partition("?")[0]  # behind which a secret may stand
    told = str(reason).partition("\n")[0].replace(url, shown)
    return PageError(f"{shown} did not answer ({told}); try again.")


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends a browser that leads a session of its own, with all that it has started, whatever it is at."""
    for number in (signal.SIGTERM, signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM):
        if process.poll() is not None:
            return
        with contextlib.suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, number)
            else:
                process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
