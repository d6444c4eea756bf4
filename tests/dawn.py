"""Tint, Chromium's WGSL compiler, for kernels that no software adapter runs: npm's webgpu, on its adapter of no GPU."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from tests.packages import ensure

VERSION = "0.6.2"
SHA256 = "77a6be6513b9f7c2e94425620ce603efb38cdc5d0393e1b31a1b0c8479330ffd"
_OF_MACHINE = {"x86_64": "linux-x64", "aarch64": "linux-arm64", "arm64": "darwin-universal"}


def ensure_dawn() -> Path:
    """The folder with Dawn for Node.js, fetched once (51 MB) and kept."""
    member = f"package/dist/{_OF_MACHINE[platform.machine()]}/dawn.node"
    return ensure(f"dawn-{VERSION}", f"webgpu@{VERSION}", SHA256, [member])


def wrong(texts: list[str]) -> list[str | None]:
    """What Tint says against each shader, for a device with f16, subgroups and their matrices."""
    node = shutil.which("node") or str(Path(sys.executable).with_name("node"))
    command = [node, str(Path(__file__).with_name("dawn.mjs")), str(ensure_dawn())]
    done = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])  # before it, what Dawn says by itself
