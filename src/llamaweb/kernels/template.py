"""WGSL assembly: a kernel's template, its constants and its bindings to one shader's text (jinja2)."""

from __future__ import annotations

from functools import cache

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
    )


def wgsl(kernel: Kernel) -> str:
    """The shader of a kernel; its entry point is `main`."""
    template = _environment().get_template(f"{kernel.template}.wgsl")
    return template.render(dict(kernel.constants), slots=kernel.slots, io=IO)
