"""Strangers' connections to the local server: where they are too many, the oldest makes room for the next.

Each takes a file that this process may open; the rest of these is for who has the login, for models and the browser.
"""

from __future__ import annotations

import contextlib
from typing import Any

from aiohttp import web

_FILES = 8192
_FEWEST = 256  # of macOS; other systems allow more


class Connections:
    """What an aiohttp server makes of connections, of strangers at most `most` at once, or little more."""

    def __init__(self, server: web.Server, most: int) -> None:
        self._server = server
        self._most = most
        self._known: set[Any] = set()

    def __call__(self) -> Any:
        """The protocol of a new connection."""
        open_now = self._server.connections  # the oldest first
        self._known.intersection_update(open_now)
        strangers = [connection for connection in open_now if connection not in self._known]
        for connection in strangers[: max(len(strangers) - self._most + 1, 0)]:
            connection.force_close()
        return self._server()

    def know(self, request: web.Request) -> None:
        """The request's connection is no stranger's."""
        self._known.add(request.protocol)


def allowed_files() -> int:
    """How many files this process may open, which is raised where it may be."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        enough = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
        if soft == resource.RLIM_INFINITY or soft >= enough:
            return enough
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))
        return enough
    return _FEWEST
