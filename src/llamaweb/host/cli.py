"""The command line: `llamaweb COMMAND`. Errors are one sentence and exit code 1; Ctrl-C is 130, no reader 141."""

from __future__ import annotations

import argparse
import asyncio
import io
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import llamaweb
from llamaweb.arguments import OFFLOADS
from llamaweb.errors import HostError, LlamaWebError, ModelWarning, said
from llamaweb.host.browser import BROWSERS, BrowserChoice
from llamaweb.host.commands import COMMANDS
from llamaweb.host.distribution import DEFAULT as DEFAULT_RELEASE
from llamaweb.host.distribution import RELEASES
from llamaweb.host.interrupt import at_once
from llamaweb.host.models import DEFAULT, PACKAGED, RANDOM
from llamaweb.host.output import Output
from llamaweb.host.terminal import Logged, to_nobody, write
from llamaweb.kernels.cache import CACHE_FORMATS
from llamaweb.kernels.mul_mat import PRECISIONS
from llamaweb.pooling import POOLINGS
from llamaweb.profile import PROFILES
from llamaweb.secrets import in_sentence, without_secrets

_JSON = "one JSON object on standard output and nothing else"
_LONG = 200  # characters of a file's name that are told


class Usage(HostError):
    """The command line cannot be understood."""


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        # An abbreviated --json would not be seen by `_run`.
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise Usage(f"{message[:1].upper()}{message[1:]}; see `{self.prog} --help`.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 with one sentence on standard error, 130 on Ctrl-C, or 141 when
    whoever read our output has gone (as shells name an end by SIGPIPE)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # What the terminal's encoding lacks, and half a character in a file's name, is written as an escape.
            stream.reconfigure(errors="backslashreplace")
    if sys.stderr is None:  # closed, as a daemon's: what would be said there is said to nobody
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if sys.stdout is None:
        write(sys.stderr, "Standard output is closed; leave it open, or send it to a file or to /dev/null.")
        return 1
    logging.lastResort = Logged(logging.WARNING)
    try:
        code = _run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()  # so that what fails, fails here
        return code
    except BrokenPipeError:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except BrokenPipeError:
                to_nobody(stream)
        return 141


def _run(arguments: list[str]) -> int:
    # Before parsing, since what is wrong with the arguments is told as JSON too.
    out = Output(as_json="--json" in arguments)
    try:
        args = build_parser().parse_args(arguments)
        if "browser" in args:  # one that cannot be is refused before anything is done
            args.choice = BrowserChoice(args.chrome, args.gpu, tuple(args.chrome_flag), args.browser)
        with warnings.catch_warnings():
            warnings.simplefilter("always", ModelWarning)
            warnings.showwarning = lambda message, *_, **__: out.warn(said(str(message), "command line"))
            asyncio.run(_interruptible(COMMANDS[args.command](args, out)))
    except LlamaWebError as error:
        out.error(type(error).__name__, error.said("command line"))
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        out.error("Interrupted", "Interrupted.")
        return 130
    except BrokenPipeError:
        raise
    except SystemExit as done:  # argparse has given help
        return int(done.code or 0)
    except Exception as error:
        if os.environ.get("LLAMAWEB_DEBUG"):
            write(sys.stderr, in_sentence(traceback.format_exc()))
        out.error(type(error).__name__, _unforeseen(error))
        return 1
    return 0


def _unforeseen(error: Exception) -> str:
    """What is said of an error that is not ours: of a file's, its name, which may be anybody's choice."""
    if isinstance(error, OSError) and isinstance(error.filename, str | bytes) and error.strerror:
        name = without_secrets(os.fsdecode(error.filename))
        told = name if len(name) <= _LONG else f"{name[:_LONG]}…"
        return f"{told} cannot be used ({error.strerror}); check the path and its permissions."
    return f"Something unforeseen went wrong ({type(error).__name__}: {error}); set LLAMAWEB_DEBUG=1 to see where."


async def _interruptible(command: Any) -> None:
    """Run the command so that Ctrl-C and SIGTERM end it wherever it is, but for what it must close (`in_order`)."""
    with at_once():
        await command


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = _Parser(prog="llamaweb", description="Large language models in the browser, run by Python on WebGPU.")
    parser.add_argument("--version", action="version", version=llamaweb.__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    run = _command(commands, "run", "stream an answer to a prompt", browser=True)
    run.add_argument(
        "-p", "--prompt", type=_prompt, metavar="TEXT", help="the prompt (default: a question to try it out)"
    )
    run.add_argument("--chat", action="store_true", help="put the prompt into the model's chat template")
    run.add_argument(
        "--max-tokens",
        type=_whole(1, or_else=-1),
        default=128,
        metavar="N",
        help="most tokens to generate; -1: until the context ends (128)",
    )
    run.add_argument("--temperature", type=_number(0, 100), default=0.8, metavar="T", help="0 is greedy (0.8)")
    run.add_argument(
        "--top-k", type=_whole(-1), default=40, metavar="N", help="likeliest tokens kept; 0 or -1: all (40)"
    )
    run.add_argument("--top-p", type=_number(0, 1), default=0.95, metavar="P", help="probability mass kept (0.95)")
    run.add_argument("--min-p", type=_number(0, 1), default=0.05, metavar="P", help="least share of the best (0.05)")
    run.add_argument(
        "--seed",
        type=_whole(0, 2**32 - 1, or_else=-1),
        metavar="S",
        help="the same seed gives the same text; -1: a random one",
    )
    _context(run)
    _check(run)

    bench = _command(commands, "bench", "how fast the model reads a prompt and generates", browser=True)
    _sizes(bench)
    bench.add_argument("--profile", action="store_true", help="time by kernel, beside the device's peaks")
    bench.add_argument("--tune", choices=["auto", "off"], default="auto", help="off: with default kernels (auto)")
    bench.add_argument("--floor", action="store_true", help="time the yardstick of bare matrix products beside it")
    bench.add_argument("--peer", choices=["wllama"], help="time another engine beside it, in the same browser")
    bench.add_argument("--loading", action="store_true", help="memory and loading instead, beside a plain loop")
    bench.add_argument("--fusions", action="store_true", help="what each fusion of kernels brings to decoding instead")
    bench.add_argument("--output", type=_path, metavar="FILE", help="put the result into this file of results, too")
    _context(bench)

    tune = _command(commands, "tune", "time every kernel variant on this device and keep the fastest", browser=True)
    _context(tune)

    tokenize = _command(commands, "tokenize", "the token ids of a file's bytes (--json: as ids)")
    _file(tokenize)
    tokenize.add_argument("--special", action="store_true", help="parse special tokens in the text")

    perplexity = _command(commands, "perplexity", "how well the model foresees a text", browser=True)
    _file(perplexity)
    _context(perplexity, 512, least=2)
    _check(perplexity)

    embed = _command(commands, "embed", "embeddings of the texts in a file, one a line", browser=True)
    _file(embed, "the texts, one a line")
    _pooling(embed)
    embed.add_argument("--raw", action="store_true", help="as the model gives them, not normalized to length 1")
    _context(embed, cached=False)
    _check(embed)

    inspect = _command(commands, "inspect", "metadata, memory and plan, from the header alone")
    _context(inspect)
    _pooling(inspect)
    inspect.add_argument(
        "--device", choices=PROFILES, default="desktop", help="whose limits to plan for; any: what WebGPU promises"
    )
    inspect.add_argument("--plan", action="store_true", help="list every dispatch")
    inspect.add_argument("--svg", type=_path, metavar="FILE", help="draw what lies where in memory, and when")

    cache = commands.add_parser(
        "cache",
        help="what llamaweb keeps on this machine",
        description="What llamaweb keeps on this machine, and where.",
    )
    cache.add_argument("--json", action="store_true", help=_JSON)
    cache.add_argument(
        "--clear",
        nargs="*",
        metavar="NAME",
        help="remove what is listed by these names or patterns; without any, all",
    )

    serve = _command(commands, "serve", "serve the demo pages")
    _pyodide(serve)
    serve.add_argument("--port", type=_whole(0, 65535), default=8000, metavar="P", help="0: a free one (8000)")
    serve.add_argument(
        "--allow-frame",
        action="append",
        type=_origin,
        default=[],
        metavar="ORIGIN",
        help="whose pages may show ours in a frame (nobody's; repeatable)",
    )
    return parser


def _command(commands: Any, name: str, help: str, browser: bool = False) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help, description=f"{help[:1].upper()}{help[1:]}.")
    models = f"a GGUF file, an address, {' or '.join(PACKAGED)} ({DEFAULT}); or random weights: {RANDOM}"
    parser.add_argument("model", nargs="?", type=_not_empty, default=DEFAULT, metavar="MODEL", help=models)
    parser.add_argument("--json", action="store_true", help=_JSON)
    if browser:
        _pyodide(parser)
        parser.add_argument("--browser", choices=BROWSERS, default="chromium", help="which to use (chromium)")
        parser.add_argument("--chrome", type=_not_empty, metavar="PATH", help="the Chromium to use")
        parser.add_argument(
            "--chrome-flag", action="append", default=[], metavar="F", help="a flag for it (repeatable)"
        )
        parser.add_argument("--gpu", action="store_true", help="use this machine's GPU, not the software adapter")
    return parser


def _pyodide(parser: argparse.ArgumentParser) -> None:
    told = f"the release of Pyodide ({DEFAULT_RELEASE}); 314, with Python 3.14, comes from Pyodide's CDN alone"
    parser.add_argument("--pyodide", choices=RELEASES, default=DEFAULT_RELEASE, help=told)


def _context(
    parser: argparse.ArgumentParser, default: int | None = None, least: int = 0, *, cached: bool = True
) -> None:
    """cached: there is a cache, whose format can be chosen."""
    told = str(default) if default else "up to 2048; 0: as many as fit"
    kind = _whole(least)
    parser.add_argument("--context", type=kind, default=default, metavar="N", help=f"tokens of context ({told})")
    parser.add_argument("--budget", type=_size, metavar="B", help="most GPU memory: bytes, or 900M, 2G, 1.5GiB")
    parser.add_argument(
        "--offload",
        choices=OFFLOADS,
        default="auto",
        help="tables of embeddings outside of GPU memory: where the budget asks for it, always, or never (auto)",
    )
    parser.set_defaults(type_k="f16", type_v="f16")
    for which, name in (("k", "keys"), ("v", "values")) if cached else ():
        parser.add_argument(f"--type-{which}", choices=CACHE_FORMATS, help=f"format of cached {name} (f16)")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="high", help="of prompts; fast: activations in 8 bits (high)"
    )


def _check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--check", action="store_true", help="look for weights and results that are no numbers")


def _sizes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompt-tokens", type=_whole(1), default=512, metavar="N", help="tokens of the prompt (512)")
    parser.add_argument("--gen-tokens", type=_whole(2), default=128, metavar="N", help="tokens to generate (128)")
    parser.add_argument("--reps", type=_whole(1), default=3, metavar="N", help="repetitions, whose median counts (3)")
    parser.add_argument("--depth", type=_whole(0), default=0, metavar="N", help="tokens in the context before them (0)")


def _pooling(parser: argparse.ArgumentParser) -> None:
    told = "how an embedding is made of those of tokens, which none leaves as they are (the file's)"
    parser.add_argument("--pooling", choices=POOLINGS, help=told)


def _file(parser: argparse.ArgumentParser, told: str = "the text") -> None:
    parser.add_argument("--file", type=_text_file, dest="text", required=True, metavar="F", help=told)


def _text_file(name: str) -> bytes:
    """A text's bytes. Read here, before there is an event loop, so that Ctrl-C ends the wait for a pipe's words."""
    path = _path(name)
    if path.is_dir():
        raise HostError(f"{name} is a folder; give the path of a text file with --file.")
    if not path.exists():
        raise HostError(f"There is no file {name}; give the path of a text file with --file.")
    try:
        return path.read_bytes()
    except OSError as error:
        raise HostError(f"{name} cannot be read ({error.strerror}); check its permissions.") from error


def _not_empty(text: str) -> str:
    """A name or path; the empty one would be that of the folder we are in."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty; give a name, or leave it out")
    return text


def _origin(text: str) -> str:
    """An origin as Content-Security-Policy takes it: neither a pattern nor anything that would end the policy."""
    found = re.fullmatch(r"https?://[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?(?::(\d{1,5}))?", text.lower())
    if not found or int(found[1] or 0) > 65535:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no origin; give scheme, host and port alone, like https://example.org or http://127.0.0.1:8888"
        )
    return text.lower()


def _path(text: str) -> Path:
    return Path(_not_empty(text))


def _prompt(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("it is empty; give a text to go on from")
    try:
        text.encode()
    except UnicodeEncodeError:  # Python keeps a byte that is none of the terminal's encoding as half a surrogate pair
        raise argparse.ArgumentTypeError(f"{text!r} has bytes that are no text; give UTF-8") from None
    return text


def _size(text: str) -> int:
    """Bytes of a size as a person writes it: 900M and 900MB are millions, 900MiB is 900 times 2 to the 20th."""
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9}(?= ?[KMGT]))?) ?(?:([KMGT])(i?)B?|B)?", text.strip(), re.IGNORECASE)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; give bytes, or a number like 900M, 2G or 1.5GiB")
    number, unit, binary = found.groups()
    base = 1024 if binary else 1000
    size = int(float(number) * base ** (" KMGT".index(unit.upper()) if unit else 0))
    if size < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no memory at all")
    return size


def _whole(least: int, most: int = 2**31 - 1, or_else: int | None = None) -> Callable[[str], int]:
    """A whole number from `least` to `most`, or one that stands for something else."""

    def whole(text: str) -> int:
        return int(_number(least, most, int, or_else)(text))

    return whole


def _number(least: float, most: float, kind: type = float, or_else: float | None = None) -> Callable[[str], float]:
    def number(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = None
        # Not-a-number fails the comparison.
        if value is None or (not least <= value <= most and value != or_else):
            sort = "a whole number" if kind is int else "a number"
            other = "" if or_else is None else f", or {or_else}"
            raise argparse.ArgumentTypeError(f"{text!r} is not {sort} from {least} to {most}{other}")
        return value

    return number


if __name__ == "__main__":
    sys.exit(main())
