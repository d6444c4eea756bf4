"""Bytes as printable characters: the alphabet that GPT-2's byte-level vocabularies are written in.

Every byte has one character: printable ASCII and Latin-1 bytes stand for themselves, the other 68 take the characters
from U+0100 on, in order. (Radford et al., "Language Models are Unsupervised Multitask Learners", its encoder.py.)
"""

from __future__ import annotations

import codecs

_ITSELF = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
_OTHERS = [byte for byte in range(256) if byte not in _ITSELF]
_CHARACTERS = [chr(byte) if byte in _ITSELF else chr(0x100 + _OTHERS.index(byte)) for byte in range(256)]

SYMBOLS: list[bytes] = [character.encode() for character in _CHARACTERS]
"""The UTF-8 of each byte's character."""

_BYTES = {character: byte for byte, character in enumerate(_CHARACTERS)}


def token_to_bytes(text: bytes) -> bytes:
    """The bytes that a token of a byte-level vocabulary stands for.

    A token that is not written in the alphabet stands for its own text.
    """
    try:
        return bytes([_BYTES[character] for character in text.decode()])
    except (KeyError, UnicodeDecodeError):
        return text


def _replace_byte(error: UnicodeError) -> tuple[str, int]:
    """What llama.cpp reads where the UTF-8 is not valid.

    Overlong forms and surrogates are taken as the code point that they spell; any other byte becomes U+FFFD alone.
    """
    assert isinstance(error, UnicodeDecodeError)
    data, start = error.object, error.start
    lead = data[start]
    length = 2 if lead >> 5 == 0b110 else 3 if lead >> 4 == 0b1110 else 4 if lead >> 3 == 0b11110 else 0
    tail = data[start + 1 : start + length]
    if length and len(tail) == length - 1 and all(byte >> 6 == 0b10 for byte in tail):
        code = lead & (0x7F >> length)
        for byte in tail:
            code = code << 6 | byte & 0x3F
        if code < 0x110000:
            return chr(code), start + length
    return "\ufffd", start + 1


codecs.register_error("llamaweb.utf8", _replace_byte)


def decode_utf8(data: bytes) -> str:
    """Text of bytes that may not be valid UTF-8, read as llama.cpp reads them; may hold surrogates."""
    return data.decode(errors="llamaweb.utf8")
