"""The peer that `llamaweb bench --peer wllama` times on the same file in the same browser: npm's @wllama/wllama."""

from __future__ import annotations

import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

from llamaweb.errors import HostError, LlamaWebError
from llamaweb.host import fetch, kept, stamps
from llamaweb.host.bridge import PageSession
from llamaweb.host.report import Report, silent

VERSION = "3.8.1"
SHA256 = "bbe65fcc6d128d7853aed6d1699db7541e51a0363dc0135b8b68153acbf74670"
_OURS = ("wllama.html", "bench.js")
_MEMBERS = ("index.js", "wasm/wllama.wasm")


def ensure_wllama(report: Report = silent) -> Path:
    """The folder that the peer's page is served from: the page, and wllama as npm has it, fetched once.

    Raises HostError if it cannot be fetched.
    """
    with kept.keeping() as root:
        folder, ours = root / f"wllama-{VERSION}", [Path(__file__).with_name(name) for name in _OURS]
        if folder.is_dir() and not stamps.whole(folder, {file.name: fetch.sha256_of(file) for file in ours}):
            kept.delete(folder)
        if not folder.is_dir():
            _fetch(folder, report)
            for file in ours:
                shutil.copy(file, folder)
            stamps.seal(folder)
    return folder


def _fetch(folder: Path, report: Report) -> None:
    report(f"Fetching wllama {VERSION}")
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".wllama-") as name:
        stage = Path(name, "stage")
        (stage / "wasm").mkdir(parents=True)
        try:
            tarball = fetch.npm_pack(f"@wllama/wllama@{VERSION}", SHA256, Path(name))
        except HostError as error:
            raise HostError(f"{str(error).rstrip('.')}; check the network, or leave out --peer.") from error
        fetch.unpack_members(tarball, {f"package/esm/{member}": stage / member for member in _MEMBERS})
        stage.rename(folder)


async def bench_wllama(page: PageSession, options: dict[str, Any]) -> dict[str, Any]:
    """wllama's speed in a tab of its own; options: model (URL), prompt_tokens, gen_tokens, reps, context.

    Gives what `bench` gives, webgpu and threads besides; or {"engine", "error"}, since a peer that fails is a result.
    """
    engine = f"wllama {VERSION}"
    try:
        found = await page.in_new_tab("folder/wllama/wllama.html", "bench", options)
    except LlamaWebError as error:
        return {"engine": engine, "error": str(error)}
    runs = found.pop("runs")
    prefill, decode = ([run[name] for run in runs] for name in ("prefill_per_second", "decode_per_second"))
    return {
        "engine": engine,
        "prefill_per_second": statistics.median(prefill),
        "decode_per_second": statistics.median(decode),
        "prefill_all": prefill,
        "decode_all": decode,
        **found,
    }
