"""Chromium's DevTools protocol over two pipes, which nobody but us can reach: a port on this machine would ask no other
user of it for a login. https://chromedevtools.github.io/devtools-protocol
"""

from __future__ import annotations

import itertools
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from llamaweb.host.browser import BrowserError

_END = b"\0"  # behind each message
# Chromium takes the pipes as files 3 and 4, which may be anything here. Its children must not have them, too.
_AS_3_AND_4 = """
import os, sys
for number, given in ((3, sys.argv[1]), (4, sys.argv[2])):
    os.dup2(int(given), number)
    os.close(int(given))
os.execv(sys.argv[3], sys.argv[3:])
"""


class CDPError(BrowserError):
    """The browser refused a command, or is gone."""


class CDP:
    """A browser as a process of ours, and what is said to it. Commands may come from any thread."""

    def __init__(self, command: Sequence[str], seconds: float, env: Mapping[str, str] | None = None) -> None:
        """seconds: how long an answer may take. Raises OSError if there is no such program."""
        self._seconds = seconds
        self._numbers = itertools.count(1)
        self._waiting: dict[int, queue.Queue[dict[str, Any] | None]] = {}
        self._lock = threading.Lock()
        self._gone = False
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        self._out = os.fdopen(ours_out, "wb", buffering=0)
        try:
            self.process = _started([*command], theirs_in, theirs_out, env)
        except BaseException:
            self._out.close()
            os.close(ours_in)
            raise
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        threading.Thread(target=self._read, args=(ours_in,), daemon=True).start()

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """The answer to a command, of a page's session or of the browser itself."""
        number, answers = next(self._numbers), queue.Queue[dict[str, Any] | None](1)
        message = {"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        with self._lock:
            if self._gone:
                raise CDPError("the browser has ended")
            self._waiting[number] = answers
            try:
                self._send(json.dumps(message).encode() + _END)
            except OSError as error:
                raise CDPError("the browser has ended") from error
        try:
            answer = answers.get(timeout=self._seconds)
        except queue.Empty:
            raise CDPError(f"no answer to {method} within {self._seconds:.0f} seconds") from None
        finally:
            self._waiting.pop(number, None)
        if answer is None:
            raise CDPError("the browser has ended")
        if "error" in answer:
            raise CDPError(str(answer["error"].get("message", answer["error"])))
        return answer["result"]

    def tabs(self) -> list[Tab]:
        found = self.call("Target.getTargets")["targetInfos"]
        return [Tab(self, target["targetId"]) for target in found if target["type"] == "page"]

    def new_tab(self) -> Tab:
        return Tab(self, self.call("Target.createTarget", url="about:blank")["targetId"])

    def close(self) -> None:
        """Nothing is said any more; the browser ends of it, if it has not."""
        with self._lock:
            self._out.close()
            self._gone = True

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._out.write(view) or 0 :]

    def _read(self, source: int) -> None:
        """Hands answers to those who wait for them, until the browser ends; events interest nobody."""
        with os.fdopen(source, "rb", buffering=0) as pipe:
            left = b""
            while more := pipe.read(1 << 16):
                *messages, left = (left + more).split(_END)
                for message in map(json.loads, messages):
                    if answers := self._waiting.get(message.get("id")):
                        answers.put(message)
                    elif message.get("method") == "Target.targetCrashed":
                        self._end()
        self._end()

    def _end(self) -> None:
        with self._lock:
            self._gone = True
        for answers in list(self._waiting.values()):
            answers.put(None)


def _started(command: list[str], theirs_in: int, theirs_out: int, env: Mapping[str, str] | None) -> Any:
    """The browser, which reads commands from one pipe and writes answers to the other. It has a session of its own:
    Ctrl-C in the terminal must reach us alone, and what it starts must end with it."""
    quiet: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    if sys.platform == "win32":
        import msvcrt

        handles = [msvcrt.get_osfhandle(pipe) for pipe in (theirs_in, theirs_out)]
        for handle in handles:
            os.set_handle_inheritable(handle, True)
        command += ["--remote-debugging-pipe", f"--remote-debugging-io-pipes={handles[0]},{handles[1]}"]
        startup = subprocess.STARTUPINFO(lpAttributeList={"handle_list": handles})
        return subprocess.Popen(command, env=env, startupinfo=startup, **quiet)
    import fcntl

    given = [fcntl.fcntl(pipe, fcntl.F_DUPFD_CLOEXEC, 10) for pipe in (theirs_in, theirs_out)]
    begin = [sys.executable, "-I", "-S", "-c", _AS_3_AND_4, *map(str, given)]
    try:
        return subprocess.Popen(
            [*begin, *command, "--remote-debugging-pipe"], env=env, pass_fds=given, start_new_session=True, **quiet
        )
    finally:
        for pipe in given:
            os.close(pipe)


class Tab:
    """One page of the browser."""

    def __init__(self, cdp: CDP, target: str) -> None:
        self._cdp = cdp
        self._target = target
        self._session = cdp.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def get(self, url: str) -> None:
        """Opens an address; returns when its document is there."""
        answer = self._cdp.call("Page.navigate", self._session, url=url)
        if "errorText" in answer:
            raise CDPError(answer["errorText"])

    def run(self, function: str, *arguments: Any) -> Any:
        """What a JavaScript function of the page, async or not, gives for arguments, all of them JSON; CDPError with
        its words if it throws."""
        expression = f"({function})(...{json.dumps(arguments)})"
        answer = self._cdp.call(
            "Runtime.evaluate", self._session, expression=expression, awaitPromise=True, returnByValue=True
        )
        if thrown := answer.get("exceptionDetails"):
            raise CDPError(thrown.get("exception", {}).get("description") or thrown["text"])
        return answer["result"].get("value")

    def close(self) -> None:
        self._cdp.call("Target.closeTarget", targetId=self._target)
