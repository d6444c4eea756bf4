"""What bounds the memory that headers take, of one file or of several."""

from __future__ import annotations

from llamaweb.errors import ModelFileError, megabytes


class Room:
    """The bytes that a header may still take, or those of several files together; `of` says whose, in a message."""

    def __init__(self, most: int, of: str) -> None:
        self._left, self._most, self._of = most, most, of

    def take(self, length: int, name: str, what: str) -> None:
        """Raises ModelFileError if `what`, in the file `name`, is too much."""
        if length > self._left:
            raise ModelFileError(
                f"{name} is damaged: {what} makes {self._of} larger than {megabytes(self._most)}; "
                "fetch or convert it again."
            )
        self._left -= length
