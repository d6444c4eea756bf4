"""Content-Security-Policy: what pages of the local server, and Python in them, may load and reach.

A page's policy does not hold for its worker, whose own comes with the worker's script. There Python runs, which is to
reach our origin and the model's alone: whatever a model's file makes it do, nobody is told of it.
"""

from __future__ import annotations

from collections.abc import Sequence

# Pyodide is WebAssembly, and what it makes of JavaScript's texts is `eval`; a hash is computed in a worker from a blob.
_SCRIPT = (
    "default-src 'none'; script-src 'self' 'unsafe-eval'; worker-src blob:; connect-src {}; frame-ancestors 'none'"
)
_PAGE = "default-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors {}"
# wllama makes its workers and their scripts from blobs.
_PEER = (
    "default-src 'self' blob:; script-src 'self' blob: 'wasm-unsafe-eval'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


def page_policy(frames: Sequence[str]) -> str:
    """frames: the origins whose pages may show ours."""
    return _PAGE.format(" ".join(frames) or "'none'")


def script_policy(origin: str, reach: Sequence[str]) -> str:
    """Of a script, if it is a worker's. origin: ours, without the bridge's, which 'self' would let it open; reach:
    others, from which the model comes."""
    return _SCRIPT.format(" ".join((origin, *reach)))


def peer_policy() -> str:
    return _PEER
