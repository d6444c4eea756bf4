"""The login of the local server: who opened an address with its secret sees the model, the files and the bridge, and no
other user of the machine does.

A browser gets the secret in the address that it opens, and keeps it as a cookie. Cookies know nothing of ports: what
one server of this machine is sent, all are that listen at other ports, those of other users too. So the cookie is for
one folder of ours alone, and nobody else knows the folder's name.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import re
import secrets
from pathlib import Path

from aiohttp import web

from llamaweb.host import kept

COOKIE = "llamaweb"
FRAMED = "llamaweb-framed"
REFUSAL = "This address needs its token: open the one that `llamaweb serve` printed, as it stands there.\n"
_FILE = "login"
_SECRET = re.compile(r"[\w-]{43}")


class Login:
    """`secret` is what a browser must know; `folder` begins the path of everything that it then may see. `framed`: in
    a frame of another site, where no strict cookie is sent, a page of ours gets one that holds there alone."""

    def __init__(self, secret: str | None = None) -> None:
        """secret: a new one if None."""
        self.secret = secret or secrets.token_urlsafe(32)
        self.framed = False
        name = hashlib.sha256(b"folder of " + self.secret.encode()).digest()[:16]
        self.folder = "/" + base64.urlsafe_b64encode(name).decode().rstrip("=")

    def check(self, request: web.Request) -> None:
        """Lets a request pass that brings the cookie. Raises the answer to one with the secret in its address, which
        gives the cookie and leads to the same place without the secret, or the refusal."""
        if self._is(request.query.get("token")):
            inside = request.path.startswith(f"{self.folder}/")
            enter = web.HTTPSeeOther(request.rel_url.raw_path if inside else f"{self.folder}/")
            path = f"{self.folder}/"
            enter.set_cookie(COOKIE, self.secret, path=path, httponly=True, samesite="Strict")
            if self.framed:
                # By hand: http.cookies knows `Partitioned` since Python 3.14.
                how = f"Path={path}; HttpOnly; Secure; SameSite=None; Partitioned"
                enter.headers.add("Set-Cookie", f"{FRAMED}={self.secret}; {how}")
            raise enter
        if not any(self._is(request.cookies.get(name)) for name in (COOKIE, FRAMED)):
            refusal = web.HTTPForbidden(text=REFUSAL)
            refusal.force_close()  # no connection is kept for a stranger
            if request.headers.get("Sec-Fetch-Site") == "cross-site":
                # A link of another site led here, perhaps from a terminal in a page: what follows from that link is not
                # sent a strict cookie, and what this answer asks for is.
                refusal.headers["Refresh"] = "0"
            raise refusal

    def _is(self, told: str | None) -> bool:
        return told is not None and secrets.compare_digest(told.encode(errors="replace"), self.secret.encode())


def kept_login() -> Login:
    """The login of the addresses that are printed for a person, the same each time, so that a tab or a bookmark holds
    when the server starts again. Where nothing can be kept it is a new one."""
    with contextlib.suppress(OSError):
        path = kept.cache_root() / _FILE
        secret = _read(path)
        if secret is None:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            kept.put(path, secrets.token_urlsafe(32), 0o600)
            secret = _read(path)  # perhaps another server's, which was quicker
        return Login(secret)
    return Login()


def _read(path: Path) -> str | None:
    """What a file that nobody else can have read or written holds, if it is a secret."""
    try:
        with open(path, opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NOFOLLOW", 0))) as file:
            status = os.fstat(file.fileno())
            if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o077):
                return None
            found = _SECRET.fullmatch(file.read(100))
    except (OSError, UnicodeDecodeError):
        return None
    return found[0] if found else None
