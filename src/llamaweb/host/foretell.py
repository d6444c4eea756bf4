"""What a model's header tells before a browser starts: what no device could run is refused, what it needs is said."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from llamaweb.errors import MemoryBudgetError
from llamaweb.host import kept, models
from llamaweb.host.browser import BrowserChoice
from llamaweb.host.chrome import no_sandbox
from llamaweb.host.output import Output, megabytes
from llamaweb.model.gguf_file import GGUFFile
from llamaweb.model.source import lasting_url

# The least of the device nodes by which a graphics driver of Linux is there: DRM, NVIDIA's own, and WSL's.
_GPU_NODES = ("dri/renderD*", "nvidia[0-9]*", "dxg", "mali*", "kgsl-*")
_DEV = Path("/dev")


def say_size(model: str, out: Output) -> None:
    """How much is going to be fetched or written for MODEL, before it begins, if that is much."""
    found = models.to_be_kept(model)
    if found and found[1] >= kept.MUCH:
        (path, size), fetched = found, model in models.PACKAGED
        out.note(
            f"{megabytes(size)} are {'fetched' if fetched else 'written'} first, into {path.parent}, and kept for the "
            f"next time; `llamaweb cache --clear {path.name}` removes them, and `llamaweb inspect {model}` "
            f"{'tells what the model needs' if fetched else 'needs none of them'}."
        )


def say_fetching(address: str, size: int, out: Output) -> None:
    """How much the page is going to fetch from an address, if that is much."""
    if size >= kept.MUCH:
        out.note(
            f"{megabytes(size)} are fetched from {lasting_url(address)}, and not kept for the next time; download the "
            "file and give its path to fetch it once."
        )


def foretell(args: argparse.Namespace, header: GGUFFile, out: Output) -> None:
    """One line of what the model will take. Raises what a page would: UnsupportedError or ModelFileError for what is in
    the file, ContextError for what is asked of it, MemoryBudgetError where the weights alone are above the budget."""
    from llamaweb.architectures import architecture
    from llamaweb.planner import DESKTOP, plan_model
    from llamaweb.tokenizer import load_tokenizer

    architecture(header)  # what is not supported is named before anything else
    load_tokenizer(header.metadata)
    options = {"n_ctx": args.context, "type_k": args.type_k, "type_v": args.type_v, "checked": True}
    options |= {"offload": args.offload, "pooling": getattr(args, "pooling", None)}
    try:
        plan = plan_model(header, DESKTOP, **options)
    except MemoryBudgetError:
        return  # of this machine's GPU only the page knows the limits
    if args.budget is not None and plan.memory["weights"] > args.budget:
        plan_model(header, DESKTOP, memory_budget=args.budget, **options)
    out.note(
        f"{Path(args.model).name}: {header.architecture}, weights of {megabytes(plan.memory['weights'])}; with a "
        f"context of {plan.n_ctx} tokens about {megabytes(plan.memory['total'])} of GPU memory"
    )


def say_sandbox(choice: BrowserChoice, out: Output) -> None:
    """Says where Chromium runs without its sandbox: what a page could do if it broke out of the browser's own walls."""
    if choice.kind == "chromium" and (why := no_sandbox(choice)):
        out.note(f"Chromium runs without its sandbox: {why}.")


def takes_gpu(wanted: bool, out: Output) -> bool:
    """Whether the machine's own GPU is taken; where it is wanted and there is none, that is said."""
    if not wanted or sys.platform != "linux" or any(next(_DEV.glob(node), None) for node in _GPU_NODES):
        return wanted
    out.note("This machine has no GPU (no driver's device in /dev), so --gpu takes the software adapter.")
    return False
