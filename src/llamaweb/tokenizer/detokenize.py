"""Text out of tokens as they come, without ever showing half a character."""

from __future__ import annotations

import codecs
from collections.abc import Callable


class StreamDecoder:
    """Turns token ids into text one by one; bytes of an unfinished character wait for the rest of it."""

    def __init__(self, token_bytes: Callable[[int], bytes]) -> None:
        self._token_bytes = token_bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The text that is complete with this token; bytes that are not UTF-8 give U+FFFD."""
        return self._utf8.decode(self._token_bytes(token))

    def finish(self) -> str:
        """What is left when no token follows: U+FFFD if a character stayed unfinished. Starts anew after it."""
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return rest
