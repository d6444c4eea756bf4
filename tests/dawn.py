"""Tint, Chromium's WGSL compiler, for kernels that no software adapter runs: npm's webgpu, on its adapter of no GPU."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from llamaweb.host import fetch, kept, stamps

VERSION = "0.6.2"
SHA256 = "77a6be6513b9f7c2e94425620ce603efb38cdc5d0393e1b31a1b0c8479330ffd"
_OF_MACHINE = {"x86_64": "linux-x64", "aarch64": "linux-arm64", "arm64": "darwin-universal"}


def ensure_dawn() -> Path:
    """The folder with Dawn for Node.js, fetched once (51 MB) and kept."""
    with kept.keeping() as root:
        folder = root / f"dawn-{VERSION}"
        if folder.is_dir() and not stamps.whole(folder, {}):
            kept.delete(folder)
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=root, prefix=".dawn-") as name:
                tarball = fetch.npm_pack(f"webgpu@{VERSION}", SHA256, Path(name))
                stage = Path(name, "stage")
                stage.mkdir()
                member = f"package/dist/{_OF_MACHINE[platform.machine()]}/dawn.node"
                fetch.unpack_members(tarball, {member: stage / "dawn.node"})
                stage.rename(folder)
            stamps.seal(folder)
    return folder


def wrong(texts: list[str]) -> list[str | None]:
    """What Tint says against each shader, for a device with f16, subgroups and their matrices."""
    node = shutil.which("node") or str(Path(sys.executable).with_name("node"))
    command = [node, str(Path(__file__).with_name("dawn.mjs")), str(ensure_dawn())]
    done = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])  # before it, what Dawn says by itself
