"""Errors a user can meet. Each message is one sentence: what is wrong, what was found, what to do.

Messages are written in Python's words; `said` puts those of the command line or of the chat page in their place. Sizes
for a person are in MB, 10^6 bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llamaweb.secrets import in_sentence

# What Python says, and in its place the command line and the chat page.
WORDS = {
    "n_ctx": ("--context", "context length in the settings"),
    "n_ubatch": ("the batch size", "the batch size"),
    "memory_budget": ("--budget", "memory limit in the settings"),
    "type_k and type_v": ("--type-k and --type-v", "the cache's format in the settings:"),
    "type_k": ("--type-k", "the cache's format in the settings"),
    "type_v": ("--type-v", "the cache's format in the settings"),
    "max_tokens": ("--max-tokens", "the length below"),
    "top_k": ("--top-k", "top-k"),
    "top_p": ("--top-p", "top-p"),
    "min_p": ("--min-p", "min-p"),
    'offload="none"': ("--offload none", "keeping tables of embeddings there"),
    'offload="embeddings"': ("--offload embeddings", "offloading embeddings"),
    'pooling="mean"': ("--pooling mean", "the command line's --pooling mean"),
    "embed(texts)": ("llamaweb embed", "the command line's embed"),
    "logits_all=True": ("perplexity", "the command line's perplexity"),
    "check=True": ("--check", "the command line's --check"),
    'cache="only"': ("the file itself", "a file of this computer"),
    "recover()": ("the same command", "“Load it again”"),
    "Llama.load": ("the same command", "“Load it again”"),
}
SURFACES = ("command line", "page")
# A word by itself, not a part of a name or of a path.
_WORD = re.compile(rf"(?<![\w./\\-])(?:{'|'.join(map(re.escape, WORDS))})(?![\w/\\-]|\.\w)")


def said(sentence: str, surface: str) -> str:
    """A sentence as a surface says it: one of SURFACES."""
    which = SURFACES.index(surface)
    return _WORD.sub(lambda found: WORDS[found[0]][which], sentence)


def megabytes(size: float, rounded: Callable[[float], int] = round) -> str:
    """A size for a person. rounded: math.ceil for what is needed, math.floor for what there is, where one is compared
    with the other."""
    return f"{rounded(size / 1e5) / 10:,.1f} MB"


def per_second(rate: float) -> str:
    """Few bytes a second, as a person reads them."""
    return f"{rate:,.0f} {'byte' if round(rate) == 1 else 'bytes'} a second"


class LlamaWebError(Exception):
    """Base of every error that is meant for a person: shown as its message, never as a traceback. Whatever address it
    tells, it has no secrets."""

    def __init__(self, message: str = "") -> None:
        super().__init__(in_sentence(message))

    def said(self, surface: str) -> str:
        """The message as one of SURFACES says it."""
        return said(str(self), surface)


class ModelFileError(LlamaWebError):
    """The model file is missing, cut off, or not what it says it is."""


class DownloadError(ModelFileError):
    """A model's server refused, with the `status` of HTTP, changed the file meanwhile, or broke off too often."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class BrokenCopyError(ModelFileError):
    """What the browser's storage has of the file `name` cannot be read; it is given up there."""

    def __init__(self, message: str, name: str = "") -> None:
        super().__init__(message)
        self.name = name


class ModelChangedError(ModelFileError):
    """A model that is to be loaded again is another one by now, whose tokens may mean other text; load it anew."""


class UnsupportedError(LlamaWebError):
    """The file is sound, but its architecture, format or tokenizer is not supported (named in the message)."""


class ContextError(LlamaWebError):
    """More tokens than the context, or a longer context than the model has."""


class MemoryBudgetError(LlamaWebError):
    """The plan needs more memory than the device or the budget gives; the message has the figures."""


class NoWebGPUError(LlamaWebError):
    """There is no WebGPU adapter here."""


class GPUError(LlamaWebError):
    """WebGPU refused or lost work: a validation error (with the kernel's label), out of memory, or a lost device."""


class KernelError(GPUError):
    """A kernel does not compile on this device, or computes something else than it should (named in the message)."""


class DeviceLostError(GPUError):
    """The GPU device is gone; load the model again, or call `Llama.recover`."""


class OutsideBrowserError(LlamaWebError, ImportError):
    """`llamaweb.Llama` or another part of the page was asked for in a Python outside of the browser."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} runs inside of a browser, in Pyodide's Python, and this is another one; here there is the command "
            "line: try `llamaweb run` (or `python -m llamaweb run`)."
        )


class NotANumberError(LlamaWebError):
    """Weights or logits of the model are no numbers (NaN or infinite), so that it has no next token."""


class HostError(LlamaWebError):
    """Outside the browser: no Chromium, a port in use, a package that cannot be fetched."""


class CacheError(LlamaWebError):
    """The browser's storage does not give or take what it should."""


class CacheWarning(UserWarning):
    """A model is loaded, but not kept in the browser's storage, or taken from there though its server did not give it,
    or fetched again since what was kept cannot be read; the message says why, with the figures."""


class ModelWarning(UserWarning):
    """A model file has something that cannot be meant, and is read without it; the message says what."""


class OptionWarning(UserWarning):
    """Options were given that say how llama.cpp uses a CPU or several GPUs, and mean nothing here; it names them."""


class KernelWarning(RuntimeWarning):
    """A kernel does not compile on the device or is wrong there; its plain variant is used. The message names it."""


def one_line(told: object) -> str:
    """What a browser or driver tells, in several lines perhaps, as a part of a sentence."""
    return " ".join(str(told).split()).rstrip(".")


def short(value: object, most: int = 40) -> str:
    """A value out of a file as a message may repeat it: its repr in one line, of at most `most` characters."""
    if isinstance(value, (str, bytes, list)):
        value = value[:most]  # no repr of megabytes
    try:
        text = " ".join(repr(value).split("\n"))
    except Exception:  # an object's own repr may do anything; that of a whole number of 5,000 digits is refused
        text = f"an object of {type(value).__name__}"
    return text if len(text) <= most else text[: most - 3] + "..."


@contextmanager
def inside_browser(what: str) -> Iterator[None]:
    """Around imports that only a page's Python has; elsewhere, they are an OutsideBrowserError."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ("js", "pyodide", "pyodide_js"):
            raise
        raise OutsideBrowserError(what) from None
