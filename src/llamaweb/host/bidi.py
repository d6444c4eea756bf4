"""WebDriver BiDi, as much as a headless browser needs: commands over a websocket, tabs, and functions of their pages.

https://w3c.github.io/webdriver-bidi; Firefox speaks it by itself, without a driver.
"""

from __future__ import annotations

import itertools
import json
from typing import Any

import websocket

from llamaweb.host.browser import BrowserError
from llamaweb.host.reasons import reason_of

OPEN_SECONDS = 60


class BiDiError(BrowserError):
    """The browser refused a command, or is gone."""


class TakenError(BiDiError):
    """Another program has the session; a browser gives one alone."""


class BiDi:
    """A session with a browser. One command at a time; a lost connection is a BiDiError. Nobody is asked for a login,
    but while a browser has a session it gives no other."""

    def __init__(self, address: str, seconds: float) -> None:
        """address: ws://HOST:PORT. seconds: how long an answer may take."""
        self._numbers = itertools.count(1)
        try:
            # A browser lets nobody in who names an origin: that would be a page.
            self._socket = websocket.create_connection(f"{address}/session", OPEN_SECONDS, suppress_origin=True)
        except (OSError, websocket.WebSocketException) as error:
            raise BiDiError(reason_of(error)) from error
        self._socket.settimeout(seconds)
        try:
            self.call("session.new", capabilities={})
        except BiDiError as error:
            self.close()
            raise TakenError(str(error)) if "number of active sessions" in str(error) else error from None

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        try:
            self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
            while True:
                answer = json.loads(self._socket.recv())
                if answer.get("id") == number:  # and no event
                    break
        except (OSError, ValueError, websocket.WebSocketException) as error:
            raise BiDiError(f"no answer to {method}: {reason_of(error)}") from error
        if answer["type"] == "error":
            raise BiDiError(answer["message"] or answer["error"])
        return answer["result"]

    def tabs(self) -> list[Tab]:
        return [Tab(self, found["context"]) for found in self.call("browsingContext.getTree")["contexts"]]

    def new_tab(self) -> Tab:
        return Tab(self, self.call("browsingContext.create", type="tab")["context"])

    def close(self) -> None:
        self._socket.close()


class Tab:
    """One page of the browser."""

    def __init__(self, bidi: BiDi, context: str) -> None:
        self._bidi = bidi
        self._context = context

    def get(self, url: str) -> None:
        """Opens an address; returns when the page is loaded."""
        self._bidi.call("browsingContext.navigate", context=self._context, url=url, wait="complete")

    def run(self, function: str, *arguments: Any) -> Any:
        """What a JavaScript function of the page, async or not, gives for arguments, all of them JSON; BiDiError with
        its words if it throws."""
        declaration = f"async (json) => JSON.stringify([await ({function})(...JSON.parse(json))])"
        answer = self._bidi.call(
            "script.callFunction",
            functionDeclaration=declaration,
            awaitPromise=True,
            target={"context": self._context},
            arguments=[{"type": "string", "value": json.dumps(arguments)}],
        )
        if answer["type"] == "exception":
            raise BiDiError(answer["exceptionDetails"]["text"])
        return json.loads(answer["result"]["value"])[0]

    def close(self) -> None:
        self._bidi.call("browsingContext.close", context=self._context)
