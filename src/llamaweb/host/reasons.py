"""Why something could not be reached or started, in a few words: the standard library's own name classes, numbers and
tuples, and repeat the address that was asked for."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import urllib.error

NO_NAME = "its server's name is not known, or this machine has no network"
NO_ANSWER = "it does not answer"
BROKEN_OFF = "its answer breaks off"
NOT_TRUSTED = "its server's certificate, or its way to encrypt, is not one that this machine trusts"


def reason_of(error: BaseException) -> str:
    """Of an error that may be of the system, or of what says itself why in plain words."""
    return reason(error) if isinstance(error, OSError) else str(error)


def reason(error: BaseException) -> str:
    """Of an error of the network or of the system."""
    if isinstance(error, urllib.error.HTTPError):
        return f"it answers {error.code}"
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, BaseException):
        return reason(error.reason)
    if isinstance(error, socket.gaierror):
        return NO_NAME
    if isinstance(error, ssl.SSLError):
        return NOT_TRUSTED
    if isinstance(error, TimeoutError):
        return NO_ANSWER
    if isinstance(error, http.client.HTTPException):
        return BROKEN_OFF
    number = getattr(error, "errno", None)
    return os.strerror(number) if number and number > 0 else "the connection to its server fails"
