"""Errors a user can meet. Each message is one sentence: what is wrong, what was found, what to do."""

from collections.abc import Iterator
from contextlib import contextmanager


class LlamaWebError(Exception):
    """Base of every error that is meant for a person: shown as its message, never as a traceback."""


class ModelFileError(LlamaWebError):
    """The model file is missing, cut off, or not what it says it is."""


class DownloadError(ModelFileError):
    """A model's server refused, changed the file meanwhile, or broke off too often."""


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
    """A kernel does not compile on this device (named in the message)."""


class DeviceLostError(GPUError):
    """The GPU device is gone; load the model again, or call `Llama.recover`."""


class OutsideBrowserError(LlamaWebError, ImportError):
    """`llamaweb.Llama` or another part of the page was asked for in a Python outside of the browser."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} runs inside of a browser, in Pyodide's Python, and this is another one; here there is the command "
            "line: try `llamaweb run` (or `python -m llamaweb run`)."
        )


class HostError(LlamaWebError):
    """Outside the browser: no Chromium, a port in use, a package that cannot be fetched."""


class CacheError(LlamaWebError):
    """The browser's storage does not give or take what it should."""


class CacheWarning(UserWarning):
    """A model is loaded, but not kept in the browser's storage; the message says why, with the figures."""


class ModelWarning(UserWarning):
    """A model file has something that cannot be meant, and is read without it; the message says what."""


class KernelWarning(RuntimeWarning):
    """A kernel does not compile on the device, and its plain variant is used instead; the message names it."""


def short(value: object, most: int = 40) -> str:
    """A value out of a file as a message may repeat it: its repr in one line, of at most `most` characters."""
    if isinstance(value, (str, bytes, list)):
        value = value[:most]  # no repr of megabytes
    text = " ".join(repr(value).split("\n"))
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
