"""What a shader's text says of it."""

from __future__ import annotations

import re

from llamaweb.planner.memory import align


def type_bytes(type: str, structs: dict[str, str]) -> int:
    """What a type of WGSL takes; the fields of structs are of one alignment."""
    array = re.fullmatch(r"array<(.+), (\d+)u?>", type)
    if array:
        return type_bytes(array[1], structs) * int(array[2])
    if type in structs:
        return sum(type_bytes(t, structs) for t in re.findall(r"\w+: (.+?)(?:, (?=\w+:)|$)", structs[type]))
    if type.endswith("f16>"):  # a vector of these
        return type_bytes(type.replace("f16", "f32"), structs) // 2
    return {"u32": 4, "f16": 2, "f32": 4, "i32": 4, "vec2": 8, "vec3": 16, "vec4": 16, "atomic": 4}[type.split("<")[0]]


def workgroup_bytes(shader: str) -> int:
    """What the declarations of var<workgroup> take."""
    structs = {name: fields.strip() for name, fields in re.findall(r"struct (\w+) \{([^}]+)\}", shader)}
    types = re.findall(r"var<workgroup> \w+: ([^;]+);", shader)
    assert types or "var<workgroup>" not in shader
    return sum(align(type_bytes(type, structs), 16) for type in types)
