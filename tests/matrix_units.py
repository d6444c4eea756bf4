"""Matrix units of subgroups played by plain WGSL: what no software adapter has.

A matrix that is loaded stays in workgroup memory, where it is until the next barrier; of sums, each invocation of a
subgroup holds every so many.
"""

from __future__ import annotations

import re

_TYPE = r"subgroup_matrix_(left|right|result)<(f16|f32), (\d+), (\d+)>"  # columns, then rows
_PLAYED = """
var<private> lane_of: u32;
var<private> zero: u32;  // which no compiler knows, so that it unrolls no loop
alias Loaded = vec2<u32>;  // where it begins in `tile`, and from there to the next row or column
alias Sums = array<f32, {each}>;
fn number(m: Loaded, major: u32, minor: u32) -> f32 {{
  let four = tile[m.x + major * m.y + minor / {per}u];
  return {number};
}}
fn multiplied(left: Loaded, right: Loaded, sums: Sums) -> Sums {{
  var found = sums;
  for (var i = 0u; i < {each}u + zero; i++) {{
    let e = lane_of + i * {lanes}u;
    for (var k = 0u; k < {k}u + zero; k++) {{ found[i] += number(left, e / {n}u, k) * number(right, e % {n}u, k); }}
  }}
  return found;
}}
fn store_sums(at: u32, sums: Sums, stride: u32) {{
  var held = sums;
  for (var i = 0u; i < {each}u + zero; i++) {{
    let e = lane_of + i * {lanes}u;
    tile[at + e / {n}u * stride + e % {n}u / 4u][e % 4u] = bitcast<u32>(held[i]);
  }}
}}
"""


def played(shader: str, lanes: int) -> str:
    """The same for subgroups of so many invocations, whatever the device's are."""
    left, result = (re.search(f"subgroup_matrix_{side}<(\\w+), (\\d+), (\\d+)>", shader) for side in ("left", "result"))
    assert left and result
    component, k, n, m = left[1], int(left[2]), int(result[2]), int(result[3])
    halves = component == "f16"
    shader = re.sub(rf"subgroupMatrixLoad<{_TYPE}, (row|col)_major>\(&tile, ", "Loaded(", shader)
    shader = shader.replace("subgroupMatrixStore<row_major>(&tile, ", "store_sums(")
    shader = shader.replace("subgroupMatrixMultiplyAccumulate(", "multiplied(")
    shader = re.sub(_TYPE, "Sums", shader)
    shader = re.sub(r"(?m)^(enable (f16|subgroups|chromium_\w+)|diagnostic\(off, chromium.*);$", "", shader)
    shader = re.sub(r"(fn main\([^{]*\{)", rf"\1\n  lane_of = local % {lanes}u;\n  zero = group.x >> 16u;", shader)
    number = "unpack2x16float(four[minor % 8u / 2u])[minor % 2u]" if halves else "bitcast<f32>(four[minor % 4u])"
    return shader + _PLAYED.format(each=m * n // lanes, per=8 if halves else 4, number=number, lanes=lanes, k=k, n=n)
