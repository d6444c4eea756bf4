"""What is given in place of a GGUF file, known by its first bytes or its name: the reason a person is told is the true
one."""

from __future__ import annotations

import re

from llamaweb.errors import short

ENOUGH = 64
"""First bytes of a file that tell."""

_LOOK = "check the address, and whether it needs a login"
_BEGINNINGS = (  # regular expression, what begins so, what to do
    (rb"version https://git-lfs\.github\.com", "a pointer of Git LFS", "fetch the file that it stands for"),
    (rb"\s*(<\?xml[^>]*>\s*)?(<!--.*)?<(!doctype|html|head|body)", "a web page", _LOOK),
    (rb"\s*<(\?xml|error)", "an answer in XML", _LOOK),
    (rb".{8}\{\s*\"", "a safetensors file", "convert the model to GGUF"),
    (rb"\s*[{\[]", "JSON", _LOOK),
    (rb"PK\x03\x04", "a ZIP archive or a PyTorch checkpoint", "unpack it, or convert the model to GGUF"),
    (rb"\x1f\x8b", "what gzip has compressed", "unpack it"),
    (rb"\x28\xb5\x2f\xfd", "what Zstandard has compressed", "unpack it"),
    (rb"BZh|\xfd7zXZ\x00|7z\xbc\xaf", "a compressed archive", "unpack it"),
    (rb"\x80[\x02-\x05]", "a Python pickle or a PyTorch checkpoint", "convert the model to GGUF"),
    (rb"lmgg|fmgg|tjgg|lagg", "a model in the GGML format of before GGUF", "convert it again"),
    (rb"FUGG", "a GGUF file of the other byte order", "convert it to a little-endian one"),
    (rb"\0{4}", "a download that was not completed", "fetch it again"),
)
_PIECE = re.compile(
    r"[.-](part\d*|part\d+of\d+|part-?[a-z]|split-[a-z]+|\d{3}|crdownload|download|incomplete|aria2|tmp)", re.IGNORECASE
)


def mistaken(name: str, start: bytes) -> str:
    """The sentence for a file `name` that begins with `start` and not as GGUF does."""
    if not start:
        return f"{name} is not a GGUF file: it is empty; fetch it again."
    begins = f"{name} is not a GGUF file: it starts with {short(start[:4])}"
    for beginning, known, remedy in _BEGINNINGS:
        if re.match(beginning, start, re.IGNORECASE | re.DOTALL):
            return f"{begins}, as {known} does; {remedy}."
    return f"{begins}; {_what_to_do(name, 'give a GGUF model')}."


def cut_off(name: str) -> str:
    """What to do about a file that ends before its tensors do."""
    return _what_to_do(name, "fetch it again")


def _what_to_do(name: str, usually: str) -> str:
    if not _PIECE.fullmatch(name.rpartition("gguf")[2]):
        return usually
    return "by its name it is a piece, or an unfinished download: join the pieces, or fetch it to its end"
