"""WGSL assembly: a kernel's template, its constants and its bindings to one shader's text (jinja2)."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from zlib import crc32

import jinja2

from llamaweb.assets import asset_dir
from llamaweb.kernels.io import IO
from llamaweb.kernels.kernel import Kernel


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(asset_dir("wgsl")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
        auto_reload=False,  # else each text asks for the time of each file that it includes
    )


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
