"""What the browser itself says of its pages and their workers, over the protocol of its developer tools."""

from __future__ import annotations

import itertools
import json
import urllib.request
from typing import Any

import websocket  # of selenium
from selenium.webdriver import Chrome


class Inspector:
    """Looks into every page of a browser and every worker of theirs, workers' own workers included."""

    def __init__(self, driver: Chrome) -> None:
        address = driver.capabilities["goog:chromeOptions"]["debuggerAddress"]
        with urllib.request.urlopen(f"http://{address}/json/version") as about:
            self._socket = websocket.create_connection(json.load(about)["webSocketDebuggerUrl"], suppress_origin=True)
        self._numbers = itertools.count()
        self._sessions: list[str] = []
        for target in self._ask("Target.getTargets")["targetInfos"]:
            if target["type"] == "page":
                self._attach(self._ask("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"])

    def array_buffers(self) -> int:
        """Bytes of the ArrayBuffers that somebody holds: garbage is collected first. WebAssembly memory is none."""
        self._ask("Target.getTargets")  # hears of new workers
        total = 0
        for session in list(self._sessions):
            self._ask("HeapProfiler.collectGarbage", session)
            total += int(self._ask("Runtime.getHeapUsage", session)["backingStorageSize"])
        return total

    def close(self) -> None:
        self._socket.close()

    def _attach(self, session: str) -> None:
        self._sessions.append(session)
        self._ask("Target.setAutoAttach", session, autoAttach=True, waitForDebuggerOnStart=False, flatten=True)

    def _ask(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        self._socket.send(json.dumps(message | ({"sessionId": session} if session else {})))
        begun, answer = [], {}
        while answer.get("id") != number:
            answer = json.loads(self._socket.recv())
            told = answer.get("params", {})
            if answer.get("method") == "Target.attachedToTarget":
                begun.append(told["sessionId"])
            elif answer.get("method") == "Target.detachedFromTarget" and told["sessionId"] in self._sessions:
                self._sessions.remove(told["sessionId"])
        for each in begun:
            self._attach(each)
        gone = session is not None and session not in self._sessions  # a worker that has ended meanwhile
        assert "error" not in answer or gone, answer
        return answer.get("result", {"backingStorageSize": 0})
