"""Secrets in what a person gives as the place of a model. In all that is told or kept, eight digits of a secret's hash
stand for it: they tell it from another one, and cannot be read.

They are found letter by letter: what no parser takes is told, too, and parsers differ in what they read. Too much may
be hidden where a name is like an address, too little never.
"""

from __future__ import annotations

import hashlib
import re
from urllib.parse import unquote

# Of what lets somebody in, for as long as it holds: each word of a name by itself,
_SECRET = re.compile(
    r"key|access|auth|oauth|authorization|bearer|code|cookie|cred|credential|hdnea|hdnts|hmac|jw[tse]|pass|pin|pwd?|psw|psk|pat"
    r"|mfa|t?otp|tok|sas|saml|assertion|csrf|xsrf|session|sid|sig|sign|ticket"
    # and what names run together have in them or end with.
    r"|.*(secret|passw|passphrase|passcode|apikey|authkey|accesskey|privatekey|sessionid|signature|credential).*|.*token"
)
_WORD = re.compile("(?<=[a-z0-9])(?=[A-Z])")  # where one begins in the middle of a name: accessToken
_HIDDEN = re.compile("([^:@]*:)?~[0-9a-f]{8}")
_NO_PORT = re.compile(r"[^:\[\]]+:(?![0-9]*\Z).+", re.DOTALL)
_BEHIND = "\"'`)]}>,.;:!?…"  # an address in a sentence
_LEVELS = 4  # of addresses in the values of others; what lies deeper is hidden as a whole


def without_secrets(place: str, level: int = 0) -> str:
    """An address, or what is given for one, with what lets somebody in hidden: before a server's name, and in pairs of
    a name and a value."""
    path, *rest = re.split("([?&;#])", _without_login(place))
    if "%" in path:
        path = "/".join(_within(part, level) for part in path.split("/"))
    return path + "".join(_pair(part, level) for part in rest)


def in_sentence(text: str) -> str:
    """A sentence without the secrets of addresses in it: a library's, for one, repeats what it got."""
    return re.sub(r"\S+", lambda word: _word(word[0]), text)


def hidden(value: str) -> str:
    """What stands for a secret; the same for what is that already, and for nothing."""
    return value if not value or _HIDDEN.fullmatch(value) else digest(value)


def digest(text: str) -> str:
    return f"~{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:8]}"


def _word(word: str) -> str:
    place = word.rstrip(_BEHIND)
    return without_secrets(place) + word[len(place) :]


def _without_login(place: str) -> str:
    """Hides what stands before a server's name and an `@`. In a path an `@` alone is that of a name's version."""
    if "@" not in place:
        return place
    parts = re.split("([/?#])", place)  # in which a server's name may end
    last = max(i for i, part in enumerate(parts) if "@" in part)
    for i in range(0, len(parts), 2):
        login, at, host = parts[i].rpartition("@")
        begins = i >= 2 and parts[i - 1] == "/" and (not parts[i - 2] or parts[i - 2].endswith(":"))
        if begins or (":" in login and not re.match(r"\W?[A-Za-z]:\\", login)):  # and no drive of Windows
            parts[i] = f"{hidden(login)}{at}{host}"
        if (begins or i == 0) and not at and i < last and _NO_PORT.fullmatch(parts[i]):
            # A password that has one of these signs.
            login, at, host = "".join(parts[i:]).rpartition("@")
            return "".join(parts[:i]) + f"{hidden(login)}{at}{host}"
    return "".join(parts)


def _pair(pair: str, level: int) -> str:
    """Without its value if that is a secret, or is an address that has one."""
    name, sign, value = pair.partition("=")
    if sign and _is_secret(name):
        return f"{name}{sign}{hidden(value)}"
    return f"{name}{sign}{_within(value, level)}" if sign else _within(pair, level)


def _within(value: str, level: int) -> str:
    """Hidden if it has a secret once it is decoded; as it stands it was looked through."""
    inner = unquote(value) if "%" in value else value
    if inner == value:
        return value
    return value if level < _LEVELS and without_secrets(inner, level + 1) == inner else digest(value)


def _is_secret(name: str) -> bool:
    words = re.findall("[a-z]+", _WORD.sub("_", unquote(name)).lower())
    if len(words) > 1:  # a number of tokens is no secret, api_keys are
        words += [word.removesuffix("s") for word in words]
    return any(_SECRET.fullmatch(word) for word in words)
