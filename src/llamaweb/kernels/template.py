"""WGSL assembly: a kernel's template, its constants and its bindings to one shader's text (jinja2)."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from zlib import crc32

import jinja2

from llamaweb.assets import asset_dir
from llamaweb.kernels.io import IO
from llamaweb.kernels.kernel import Kernel


def _of_one(text: str, i: int) -> str:
    """Functions over the planes of a weight as those of weight `i` of several, which is told in all their names."""
    names = "|".join(re.findall(r"\bfn (\w+)", text))
    return re.sub(r"\bw_(?!codes\b)", f"w{i}_", re.sub(rf"\b({names})\b", rf"\1_{i}", text))


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(asset_dir("wgsl")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
        auto_reload=False,  # else each text asks for the time of each file that it includes
    )
    environment.filters["of_one"] = _of_one
    return environment


@cache
def edition() -> str:
    """Tells these kernels and their variants from another release's: what was found out about those need not hold."""
    digest = 0
    for folder, pattern in ((asset_dir("wgsl"), "**/*.wgsl"), (Path(__file__).parent, "*.py*")):
        for path in sorted(folder.glob(pattern)):
            digest = crc32(path.read_bytes(), crc32(path.relative_to(folder).as_posix().encode(), digest))
    return f"{digest:08x}"


def wgsl(kernel: Kernel) -> str:
    """The shader of a kernel; its entry point is `main`."""
    template = _environment().get_template(f"{kernel.template}.wgsl")
    return template.render(dict(kernel.constants), slots=kernel.slots, io=IO)
