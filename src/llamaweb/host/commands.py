"""The commands of `llamaweb`: each takes its parsed arguments and an Output, and returns nothing."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamaweb.architectures.embeddings import check_embeds, check_generates
from llamaweb.chat import check_chat
from llamaweb.errors import HostError, NoWebGPUError
from llamaweb.host import kept, models
from llamaweb.host.foretell import foretell, say_fetching, say_sandbox, say_size, takes_gpu
from llamaweb.host.interrupt import in_order
from llamaweb.host.models import is_address, resolve
from llamaweb.host.output import Output, megabytes, memory_line, timings_line
from llamaweb.host.terminal import one_line
from llamaweb.model.source import file_name

if TYPE_CHECKING:
    from llamaweb.host.bridge import PageSession

DEFAULT_QUESTION = "What makes the sky blue?"
# Longer arrays of a model's metadata (the vocabulary) are told by their length alone.
LONGEST_ARRAY = 64
# A text of so many bytes may be a single token; a longer one is left to the page.
SHORT_TEXT = 256


async def run(args: argparse.Namespace, out: Output) -> None:
    """Stream an answer."""
    from llamaweb.sampling import Sampling

    # What the page would refuse is refused before a browser starts.
    Sampling(args.temperature, args.top_k, args.top_p, args.min_p, args.seed)
    question = args.prompt is None
    params = {
        "prompt": DEFAULT_QUESTION if question else args.prompt,
        "chat": args.chat or question,
        "max_tokens": args.max_tokens,
        "temperature": args.temperature,
        "top_k": args.top_k,
        "top_p": args.top_p,
        "min_p": args.min_p,
        "seed": args.seed,
        **_context(args),
    }
    if not is_address(args.model):  # an address' header is read by the page, once
        header = await _header(args.model, out)
        check_generates(header)
        if params["chat"]:
            check_chat(header.metadata)
    if question:
        out.note(f"No -p TEXT was given; asking: {DEFAULT_QUESTION}")
    result = await _in_page("run", args, params, out)
    out.result(result, "")
    out.note(f"{timings_line(result['timings'])}; on {result['adapter']}")
    out.note(f"{memory_line(result['memory'])}; {result['dispatches_per_token']} dispatches a token")


async def perplexity(args: argparse.Namespace, out: Output) -> None:
    """Measure how well the model foresees a text."""
    await _check_length(args.model, args.text, out)
    result = await _in_page("perplexity", args, _context(args), out, args.text)
    out.result(result, f"perplexity {result['perplexity']:.4f} over {result['tokens']} tokens")


async def embed(args: argparse.Namespace, out: Output) -> None:
    """Embeddings of texts; for a person, one a line."""
    from llamaweb.embedding import lines

    lines(args.text)  # what the page would refuse is refused before a browser starts
    if not is_address(args.model):
        check_embeds(await _header(args.model, out), args.pooling)
    params = {**_context(args), "pooling": args.pooling, "normalize": not args.raw}
    result = await _in_page("embed", args, params, out, args.text)
    out.result(result, "\n".join(map(_numbers, result["embeddings"])))
    out.note(f"{memory_line(result['memory'])}; {result['dispatches_per_token']} dispatches a batch of texts")


async def tune(args: argparse.Namespace, out: Output) -> None:
    """Time every variant of the model's products and attention, and keep the fastest."""
    from llamaweb.host.tables import tune_text

    result = await _in_page("tune", args, _context(args), out)
    out.result(result, tune_text(result))


async def bench(args: argparse.Namespace, out: Output) -> None:
    """Measure speed and memory; with a peer, the same in the same browser. Or loading, or what each fusion brings."""
    from llamaweb.host import results
    from llamaweb.host.peer import bench_wllama, ensure_wllama
    from llamaweb.host.tables import bench_text, fusions_text, loading_text

    others = [name for name in ("loading", "fusions", "profile", "peer") if getattr(args, name)]
    if len(others) > 1 and others[0] in ("loading", "fusions"):
        raise HostError(f"--{others[0]} is a measurement of its own; leave out --{' and --'.join(others[1:])}.")
    if args.output:
        results.check(args.output)
    for kind, text in (("loading", loading_text), ("fusions", fusions_text)):
        if getattr(args, kind):
            params = {name: getattr(args, name) for name in ("gen_tokens", "reps", "depth")} | _context(args)
            async with _model_page(args, out) as (page, model):
                result = await _call(page, f"bench_{kind}", {**params, "model": model}, out)
            types = {name: params[name] for name in ("type_k", "type_v")}
            result = {"kind": kind, "model": _name(model), **types, **_unusual_precision(args), **result}
            out.result(result, text(result))
            if args.output:
                results.add(args.output, result)
            return
    names = ("prompt_tokens", "gen_tokens", "reps", "depth", "profile", "tune", "floor")
    params = {name: getattr(args, name) for name in names} | _context(args)
    if not is_address(args.model):
        models.header_source(args.model, out.report)  # what is wrong with it is told before a peer is fetched
    folders = {"wllama": ensure_wllama(out.report)} if args.peer else {}
    async with _model_page(args, out, folders=folders) as (page, model):
        result = await _call(page, "bench", {**params, "model": model}, out)
        result = {"model": _name(model), **_unusual_cache(args), **_unusual_precision(args), **result}
        if args.peer:
            out.report(f"Measuring {args.peer}")
            params["context"] = result["context"]
            result["peer"] = await bench_wllama(page, {**params, "model": model})
    out.result(result, bench_text(result))
    if args.output:
        results.add(args.output, result)


async def tokenize(args: argparse.Namespace, out: Output) -> None:
    """The token ids of a file's bytes; needs no browser."""
    from llamaweb.tokenizer import load_tokenizer

    header = await _header(args.model, out)
    ids = load_tokenizer(header.metadata).encode(args.text, add_special=True, parse_special=args.special)
    out.result({"ids": ids}, " ".join(map(str, ids)))


async def inspect(args: argparse.Namespace, out: Output) -> None:
    """What the model is, and what it will need; needs no browser and reads only the header."""
    from llamaweb.architectures import architecture
    from llamaweb.kernels.tuner import worth_tuning
    from llamaweb.planner import PROFILES, plan_model
    from llamaweb.planner.picture import picture
    from llamaweb.planner.report import describe
    from llamaweb.planner.sizes import Options, Sizes
    from llamaweb.planner.tables import tell_if_none_moves
    from llamaweb.tokenizer import load_tokenizer

    header = await _header(args.model, out)
    architecture(header)  # what is not supported is named before anything else
    load_tokenizer(header.metadata)  # what no page could read is refused here, too
    profile = PROFILES[args.device]
    plan = plan_model(
        header,
        profile,
        n_ctx=args.context,
        memory_budget=args.budget,
        offload=args.offload,
        type_k=args.type_k,
        type_v=args.type_v,
        precision=args.precision,
        tuned=worth_tuning(profile, "auto"),
        checked=True,
        pooling=args.pooling,
    )
    tell_if_none_moves(args.offload, plan.tables)
    report = describe(plan, dispatches=args.plan)
    if args.svg:
        options = Options(type_k=args.type_k, type_v=args.type_v, precision=args.precision, offload=bool(plan.tables))
        options = replace(options, pooling=args.pooling)
        layouts = Sizes(header, profile, options).layouts(plan.n_ctx, plan.n_ubatch)
        name = header.metadata.get("general.name") or _name(args.model)
        _write(args.svg, picture(plan, layouts, _short(_plain(name))))
    metadata = {key: _plain(value) for key, value in header.metadata.items()}
    out.result({"metadata": metadata, "device": args.device, **report}, _inspection(metadata, profile.name, report))


async def cache(args: argparse.Namespace, out: Output) -> None:
    """What the command line keeps between its runs, and how to be rid of it."""
    from llamaweb.host.tables import cache_text

    removed = kept.remove(args.clear) if args.clear is not None else None
    there = kept.kept()
    folder, total = str(kept.cache_root()), sum(each.bytes for each in there)
    told: dict[str, Any] = {"folder": folder, "bytes": total, "entries": [each.told() for each in there]}
    if removed is not None:
        told["removed"] = [each.told() for each in removed]
    out.result(told, cache_text(folder, there, removed))


async def serve(args: argparse.Namespace, out: Output) -> None:
    """Serve the demo pages until interrupted."""
    import asyncio

    from llamaweb.host.distribution import ensure_distribution
    from llamaweb.host.login import kept_login
    from llamaweb.host.server import Site, serving

    if is_address(args.model):
        raise HostError("serve needs a file, since a page can fetch an address itself; give a path or a model's name.")
    await _header(args.model, out)  # a file that no page could read is refused here
    say_size(args.model, out)
    model = Path(resolve(args.model, out.report))
    pyodide, frames = ensure_distribution(out.report, release=args.pyodide), tuple(args.allow_frame)
    site = Site(pyodide, _files(model), default=model.name, frames=frames)
    with in_order():
        async with serving(site, args.port, login=kept_login()) as server:
            out.result({"url": server.address}, f"LlamaWeb is at {server.address} (Ctrl-C ends it)")
            await asyncio.Event().wait()


async def _in_page(
    command: str, args: argparse.Namespace, params: dict[str, Any], out: Output, text: bytes | None = None
) -> dict[str, Any]:
    async with _model_page(args, out, files={} if text is None else {"text": text}) as (page, model):
        params["model"] = model
        if text is not None:
            params["file"] = page.server.file_url("text")
        return await _call(page, command, params, out)


async def _call(page: PageSession, command: str, params: dict[str, Any], out: Output) -> dict[str, Any]:
    """The page's result; its browser is told what tuning found in those before it, and tells the next ones."""
    from llamaweb.host import tuning

    before = tuning.load()
    address = params["model"]
    untold = not address.startswith(page.server.url)

    def take(event: dict[str, Any]) -> None:
        nonlocal untold
        if untold and event.get("phase") == "weights" and event.get("total"):
            say_fetching(address, event["total"], out)
            untold = False
        if event["event"] != "tuning":
            out.event(event)
        elif event["kept"] not in (None, before):
            tuning.save(event["kept"])

    return await page.call(command, {**params, "tuning": before}, take)


@asynccontextmanager
async def _model_page(
    args: argparse.Namespace,
    out: Output,
    *,
    files: Mapping[str, bytes] = {},
    folders: Mapping[str, Path] = {},
) -> AsyncIterator[tuple[PageSession, str]]:
    """A page in the browser that the arguments choose, and the model's address as it sees it."""
    from llamaweb.host.bridge import open_page
    from llamaweb.host.distribution import ensure_distribution
    from llamaweb.host.reach import origins
    from llamaweb.host.server import Site

    if not is_address(args.model):  # an address' header is read by the page, once
        foretell(args, await _header(args.model, out), out)
        say_size(args.model, out)
    choice = replace(args.choice, gpu=takes_gpu(args.choice.gpu, out), offline=not is_address(args.model))
    model = resolve(args.model, out.report)
    say_sandbox(choice, out)
    files_of_model = {} if isinstance(model, str) else _files(model)
    reach = await origins(model) if isinstance(model, str) else ()
    site = Site(ensure_distribution(out.report, release=args.pyodide), files_of_model, files, folders, reach=reach)
    try:
        with in_order():
            async with open_page(site, choice, out.report) as page:
                yield page, model if isinstance(model, str) else page.server.model_url(model.name)
    except NoWebGPUError as error:
        if not choice.gpu:
            raise
        raise NoWebGPUError(f"{str(error).rstrip('.')}, or leave out --gpu for the software adapter.") from error


def _files(model: Path) -> dict[str, Path]:
    """The files of a model, by name: one, or those of a split model that are there."""
    from llamaweb.model.shards import shard_names

    files = [model.with_name(name) for name in shard_names(model.name)]
    return {file.name: file for file in files if file.exists()}


async def _header(name: str, out: Output) -> Any:
    from llamaweb.host.http_source import open_address
    from llamaweb.model.shards import read_model

    if is_address(name):
        async with open_address(name) as source:
            return (await read_model(source))[0]
    return (await read_model(models.header_source(name, out.report)))[0]


async def _check_length(model: str, text: bytes, out: Output) -> None:
    """Refuse a text that is too short to have a perplexity, before a browser starts."""
    from llamaweb.tokenizer import load_tokenizer

    if not text:
        raise HostError("The text is empty; give one of at least two tokens with --file.")
    if not is_address(model):
        check_generates(await _header(model, out))
    if len(text) <= SHORT_TEXT:
        load_tokenizer((await _header(model, out)).metadata).encode_to_evaluate(text)


def _context(args: argparse.Namespace) -> dict[str, Any]:
    """The context, the formats of its cache, the budget and the check, as the page's commands take them."""
    same = {name: getattr(args, name) for name in ("context", "type_k", "type_v", "precision", "offload")}
    return {**same, "memory_budget": args.budget, "check": getattr(args, "check", False)}


def _unusual_cache(args: argparse.Namespace) -> dict[str, str]:
    """Formats of the cache that tell a result from another one's: f16 goes without saying."""
    types = {name: getattr(args, name) for name in ("type_k", "type_v")}
    return types if set(types.values()) != {"f16"} else {}


def _unusual_precision(args: argparse.Namespace) -> dict[str, str]:
    return {"precision": args.precision} if args.precision != "high" else {}


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise HostError(f"{path} cannot be written ({error.strerror}); name another file.") from error


def _name(model: str) -> str:
    """Of MODEL, without what of an address lets somebody in."""
    return file_name(model) if is_address(model) else Path(model).name


def _numbers(embedding: list[Any]) -> str:
    """A vector in one line, those of tokens in one each."""
    if isinstance(embedding[0], list):
        return "\n".join(map(_numbers, embedding))
    return " ".join(f"{number:.6g}" for number in embedding)


def _plain(value: Any) -> Any:
    """Metadata as JSON has it: text for bytes, lists for arrays, only the length of a long one."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list):
        return {"length": len(value)} if len(value) > LONGEST_ARRAY else [_plain(item) for item in value]
    return value


def _inspection(metadata: dict[str, Any], device: str, report: dict[str, Any]) -> str:
    lines = [f"{_short(key)}: {_short(value)}" for key, value in metadata.items()]
    batches = f"in batches of {report['ubatch']}"
    lines += ["", f"On {device}, a context of {report['context']} tokens {batches}: {memory_line(report['memory'])}"]
    if report["on_host"]:
        lines.append(f"Outside of GPU memory: {', '.join(report['on_host'])}")
    if report["budget"] is not None:
        left = megabytes(report["budget"] - report["memory"]["peak"])
        lines.append(f"At most {megabytes(report['memory']['peak'])} at any time; {left} of the budget are left")
    bound = megabytes(report["arena_lower_bound"])
    of = "batch of texts" if report["pooling"] else "token"
    lines.append(f"{report['dispatches_per_token']} dispatches a {of}; what lives at once in the arena takes {bound}")
    for phase, dispatches in report.get("plan", {}).items():
        lines += ["", f"{phase}:"]
        lines += [f"  {one_line(d['label'])}: {d['kernel']} {'×'.join(map(str, d['workgroups']))}" for d in dispatches]
    return "\n".join(lines)


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return f"({value['length']} values)"
    text = " ".join(one_line(str(value)[:1000]).split())  # a file's own text may have megabytes to escape
    return text if len(text) <= 100 else text[:99] + "…"


Command = Callable[[argparse.Namespace, Output], Any]
COMMANDS: dict[str, Command] = {
    "run": run,
    "bench": bench,
    "tune": tune,
    "tokenize": tokenize,
    "perplexity": perplexity,
    "embed": embed,
    "inspect": inspect,
    "serve": serve,
    "cache": cache,
}
