"""Fusion: from a graph's plain steps to the fewest that compute the same.

Each rule is a function from a pattern of operations to a fused one, whatever family has it; without any of them every
model gives the same logits, more slowly. They are applied in the order of FUSIONS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, replace
from typing import Any

from llamaweb.graph import Graph, Tensor
from llamaweb.kernels.formats import format_of
from llamaweb.kernels.kernel import GLU
from llamaweb.operations import OPERATIONS, lower
from llamaweb.operations.norm import groups_of
from llamaweb.operations.step import Step, Value, View
from llamaweb.planner.expressions import chains, convolutions, inputs, results
from llamaweb.planner.planes import planes
from llamaweb.planner.program import Program, reads_parts
from llamaweb.rope import Rope

_PRODUCTS = ("mul_mat_vec", "mul_mat")
_STACKED = (*_PRODUCTS, "mul_mat_id", "mul_mat_id_tiles")  # products of weights that may be one


@dataclass(frozen=True)
class Steps:
    steps: list[Step]
    head: int  # the first step that belongs to the logits, or to pooled rows
    logits: Value  # or embeddings

    @classmethod
    def of(cls, steps: list[Step]) -> Steps:
        head = next((i for i, step in enumerate(steps) if step.head), len(steps))
        last = next((step.values["logits"] for step in steps if "logits" in step.values), None)
        return cls(steps, head, (last or steps[-1].values["y"]).value)


def fuse(graph: Graph, attention_splits: int = 1, max_bindings: int = 8, unfused: Set[str] = frozenset()) -> Steps:
    """The steps of a graph, in order. With attention splits, one token's attention is shared out and put together.
    max_bindings: of one kernel on the device (maxStorageBuffersPerShaderStage). unfused: names of FUSIONS that are
    left out."""
    program = Program(lower(graph, attention_splits))
    for name, rule in _RULES.items():
        if name not in unfused:
            rule(program, max_bindings)
    return Steps.of(_in_lane_order(program.steps))


def _attention(program: Program, max_bindings: int) -> None:
    """norms of heads, rope and the writing of the cache within a token's attention"""
    for i, _ in program.of("rope_kv"):
        _take_in_heads(program, i, "qk")
        _take_in_norm_of_values(program, i)
    for i, attention in program.of("flash_attn_vec"):
        if attention.params["shared"]:
            _take_in_heads(program, i, "q")
            taken = program.at(i)
            program.put(i, taken.but(writes="rope" in taken.params))
        before = [(j, s) for j, s in program.uses(attention.values["qkv"].value) if s.op == "rope_kv"]
        for j, cache in before:
            program.put(j, None)
            params = {**attention.params, **cache.params, "writes": True}
            program.put(i, replace(attention, weights={**attention.weights, **cache.weights}, params=params))


def _take_in_heads(program: Program, i: int, parts: str) -> None:
    """Into the writing of the cache, or into attention to an earlier layer's, what q and k, or q alone, went through
    alike before they were laid side by side: copies of rotated heads, normed before or behind that or not at all."""
    step = program.at(i)
    copies = [(j, s) for j, s in program.writers(step.values["qkv"].value) if s.op == "elementwise"][: len(parts)]
    if len(copies) < len(parts) or any(s.params["expression"] != 0 for _, s in copies):
        return
    head_dim = step.params["head_dim"]
    chains = [_chain_before(program, copy) for _, copy in copies]
    kinds = [[_rotation_or_eps(step, head_dim) for _, step in chain] for chain in chains]
    alike = 0  # steps at the end of all
    while alike < min(map(len, kinds)) and kinds[0][-alike - 1] == kinds[-1][-alike - 1] is not None:
        alike += 1
    chains = [chain[len(chain) - alike :] for chain in chains]
    kinds = [kind[len(kind) - alike :] for kind in kinds]
    rotations = [kind for kind in kinds[0] if isinstance(kind, Rope)]
    if not rotations:
        return
    norms = [step for chain in chains for _, step in chain if step.op != "rope"]
    eps = norms[0].params["eps"] if norms else None
    behind = bool(norms) and kinds[0][0] is rotations[0]
    weights = {"head_norm": tuple(w for norm in norms for (w,) in norm.weights.values())} if norms else {}
    for (j, copy), chain in zip(copies, chains, strict=True):
        program.put(j, replace(copy, values={**copy.values, "x0": chain[0][1].values["x"]}))
        for at, _ in chain:
            program.put(at, None)
    fused = replace(step, weights={**step.weights, **weights})
    program.put(i, fused.but(rope=rotations[0], head_eps=eps, norm_behind=behind))


def _take_in_norm_of_values(program: Program, i: int) -> None:
    """The same of values, each head of which may be normed without a weight."""
    step = program.at(i)
    copies = [(j, s) for j, s in program.writers(step.values["qkv"].value) if s.op == "elementwise"]
    j, copy = copies[-1]
    at, norm = program.writer(copy.values["x0"].value)
    if len(copies) < 3 or norm is None or norm.op != "norm" or norm.weights or norm.params["kind"] != "rms":
        return
    alone = copy.values["x0"].whole and len(program.readers(copy.values["x0"].value)) == 1
    if alone and copy.params["expression"] == 0 and norm.params["size"] == step.params["head_dim_v"]:
        program.put(at, None)
        program.put(j, replace(copy, values={**copy.values, "x0": norm.values["x"]}))
        program.put(i, step.but(v_eps=norm.params["eps"]))


def _rotation_or_eps(step: Step, head_dim: int) -> Rope | float | None:
    """What tells a step of a chain from others of its kind; None: heads are not made of it."""
    if step.op == "rope":
        return step.params["rope"]
    size = step.values["y"].row if step.op == "rms_norm" else step.params["size"]
    vectors = [vector.row for (vector,) in step.weights.values()]
    rms = step.op == "rms_norm" or step.params["kind"] == "rms"
    return step.params["eps"] if rms and size == head_dim and vectors == [head_dim] else None


def _chain_before(program: Program, copy: Step) -> list[tuple[int, Step]]:
    """The rotation and the norm that a copy ends, in order; nothing else reads what is between."""
    found: list[tuple[int, Step]] = []
    view = copy.values["x0"]
    while view.whole and len(program.readers(view.value)) == 1 and len(found) < 2:
        i, writer = program.writer(view.value)
        if writer is None or writer.op not in ("rope", "norm", "rms_norm"):
            break
        if any((writer.op == "rope") == (step.op == "rope") for _, step in found):
            break  # two of a kind
        found.insert(0, (i, writer))
        view = writer.values["x"]
    return found


def _copies(program: Program, max_bindings: int) -> None:
    """results written where they are wanted, instead of copied there"""
    for i, copy in program.of("elementwise"):
        if copy.params != {"expression": 0} or "x0" not in copy.values:
            continue
        source, target, reader = copy.values["x0"], copy.values["y"], i
        while source.whole and source.row == target.row and _may_lie_there(program, source, target, reader, i):
            writers = [(j, _of_any_part(step)) for j, step in program.writers(source.value)]
            if not all(_may_write(step, target) for _, step in writers):
                break
            for j, step in writers:
                program.put(j, step)
            program.put(i, None)
            program.substitute(source.value, target)
            (reader, first), *others = writers
            if others or first.op not in ("norm", "rope"):
                break
            source = first.values["x"]  # which these may work on in place


def _may_lie_there(program: Program, source: View, target: View, reader: int, copy: int) -> bool:
    """Whether what else reads a value than one step can read it at the place of its copy, before anything is written
    over that."""
    others = [j for j, _ in program.readers(source.value) if j != reader]
    if not others:
        return True
    over = [j for j, step in program.writers(target.value) if j != copy and _overlap(step.values["y"], target)]
    behind = min(over, default=max(others) + 1)
    return not target.apart and max(others) < behind and reads_parts(program, source.value)


def _overlap(view: View, other: View) -> bool:
    """Whether two views of one value may have numbers in common."""
    apart = view.apart or other.apart
    return bool(apart) or max(view.first, other.first) < min(view.first + view.row, other.first + other.row)


def _may_write(step: Step, target: View) -> bool:
    """Whether what a step gives may lie there instead."""
    y, operation = step.values["y"], OPERATIONS[step.op]
    return "y" in (operation.apart if target.apart or y.apart else operation.parts) and (y.whole or not target.apart)


def _of_any_part(norm: Step) -> Step:
    """A norm of whole rows as one that may stand anywhere in a row; any other step as it is."""
    if norm.op != "rms_norm":
        return norm
    params = {"kind": "rms", "size": norm.values["y"].row, "eps": norm.params["eps"]}
    return replace(norm, op="norm", weights={"scale": norm.weights["norm_weight"]}, params=params)


def _norms(program: Program, max_bindings: int) -> None:
    """norms of parts of one row as one step"""
    for i, first in program.of("norm"):
        value = first.values["y"].value
        for j, other in program.uses(value):
            if j <= i or other.op != "norm":
                continue
            between = [step for at, step in program.uses(value) if i < at < j]
            if _alike(first, other) and not any(step.reads(value) for step in between):
                program.put(i, None)
                groups = groups_of(first) + groups_of(other)
                weights = {"scale": first.weights["scale"] + other.weights["scale"]}
                whole = {slot: View.of(value) for slot in ("x", "y")}
                name = f"{first.name}+{other.name}"
                program.put(j, replace(other, name=name, values=whole, weights=weights).but(groups=groups))
                break


def _alike(norm: Step, other: Step) -> bool:
    """Whether both norm a part of the same value where it stands, in the same way."""
    values = {view.value for step in (norm, other) for view in step.values.values()}
    same = all(norm.params[name] == other.params[name] for name in ("kind", "eps"))
    scaled = list(norm.weights) == list(other.weights) == ["scale"]
    return len(values) == 1 and same and scaled and "groups" not in other.params


def _rotations(program: Program, max_bindings: int) -> None:
    """rotations of neighbouring parts of one row as one step"""
    for i, first in program.of("rope"):
        x = first.values["y"]
        j, other = next(((at, step) for at, step in program.uses(x.value) if at > i), (i, first))
        if j == i or other.op != "rope" or other.params != first.params:
            continue
        y = other.values["y"]
        if first.values["x"] == x and other.values["x"] == y and y.first == x.first + x.row:
            both = View(x.value, x.row + y.row, x.first)
            program.put(i, None)
            program.put(j, replace(other, name=f"{first.name}+{other.name}", values={"x": both, "y": both}))


def _scales(program: Program, max_bindings: int) -> None:
    """the scale of a weight, and a bias behind that, within its product"""
    for i, product in program.of(*_PRODUCTS):
        if "bias" in product.weights:
            continue
        fused = product
        for slot, name, size in (("tensor_scales", "mul", 1), ("bias", "add", product.values["y"].row)):
            y = fused.values["y"]
            j, behind = program.reader(y.value)
            vector = _vector_behind(behind, name, y) if behind and y.whole else None
            if not behind or not vector or vector.size != size or not _may_have(fused, 1, max_bindings):
                break
            program.put(j, None)
            weights = {**fused.weights, slot: (vector,)}
            fused = replace(fused, values={**fused.values, "y": behind.values["y"]}, weights=weights)
            program.put(i, fused)


def _vector_behind(step: Step, name: str, y: View) -> Tensor | None:
    """The weight that a value is multiplied by, or that is added to it, in a step that does no more."""
    expressions = ((name, 0, 1), (name, 1, 0))
    if step.op != "elementwise" or step.params["expression"] not in expressions or y not in step.values.values():
        return None
    vectors = [vector for (vector,) in step.weights.values()]
    return vectors[0] if len(vectors) == 1 else None


def _siblings(program: Program, max_bindings: int) -> None:
    """products of one input as one product (and with them the gated linear unit)"""
    for i, first in program.of(*_STACKED):
        stack = [(i, first)]
        for j, other in program.readers(first.values["x"].value):
            if j > i and _of_one_input(first, other) and _stackable(program, stack[-1][1], other):
                stack.append((j, other))
        if len(stack) > 1:
            _stack(program, stack)


def _of_one_input(product: Step, other: Step) -> bool:
    """Whether both are of one kind, of the same rows, and of the same experts' weights if of experts'."""
    return product.op == other.op and product.values | {"y": None} == other.values | {"y": None}


def _stackable(program: Program, product: Step, other: Step) -> bool:
    """Whether the weights of the second can stand behind those of the first: of one format, the first of whole units of
    its blocks, both with a bias or none, and with results that stand, or may stand, behind each other."""
    weight, behind = product.weights["w"][-1], other.weights["w"][0]
    format = format_of(weight.type, weight.name)
    alike = weight.type == behind.type and product.weights.keys() == other.weights.keys()
    if not alike or not format.in_units(weight.row, weight.rows) or product.params != other.params:
        return False
    y, z = product.values["y"], other.values["y"]
    if not y.whole or not z.whole:
        return y.value is z.value and y.first + y.row == z.first
    return all(reads_parts(program, view.value) for view in (y, z))


def _stack(program: Program, products: list[tuple[int, Step]]) -> None:
    steps = [step for _, step in products]
    name, row = "+".join(step.name for step in steps), sum(step.values["y"].row for step in steps)
    y = steps[0].values["y"]
    if y.whole:
        joint = Value(name, row, y.n_tokens)
        first = 0
        for step in steps:
            view = step.values["y"]
            program.substitute(view.value, View(joint, view.row, first))
            first += view.row
        y = View(joint, row)
    weights = {slot: tuple(t for step in steps for t in step.weights[slot]) for slot in steps[0].weights}
    for i, _ in products:
        program.put(i, None)
    values = {**steps[0].values, "y": View(y.value, row, y.first)}
    program.put(products[0][0], replace(steps[0], name=name, values=values, weights=weights))


def _experts(program: Program, max_bindings: int) -> None:
    """the weighted sum of what experts give within their last product"""
    for i, total in program.of("weighted_sum"):
        x = total.values["x"]
        j, product = program.writer(x.value)
        if product and product.op == "mul_mat_id" and x.whole and program.reader(x.value)[0] == i:
            program.put(j, None)
            program.put(i, replace(product, values={**product.values, "y": total.values["y"]}).but(sums=True))


def _epilogue(program: Program, max_bindings: int) -> None:
    """a gated linear unit within the product of gate and up, or of the gate alone; a factor or a function behind any
    product within that"""
    for i, product in program.of(*_STACKED):
        y = product.values["y"]
        j, behind = program.reader(y.value)
        if behind is None or behind.op != "elementwise" or not y.whole or len(program.writers(y.value)) > 1:
            continue
        change: dict[str, Any]
        match behind.params["expression"]:
            case (str(name), 0, 1) if name in GLU:
                gate, up = behind.values.get("x0"), behind.values.get("x1")
                half = y.row // 2
                if (gate, up) == (y.part(0, half), y.part(half, half)) and len(product.weights["w"]) <= 2:
                    change = {"epilogue": name}
                elif gate == y and up and _there(program, up, i) and _may_have_of_one(product, 1, max_bindings):
                    product = replace(product, values={**product.values, "by": up})
                    change = {"epilogue": "by_" + name}
                else:
                    continue
            case ("mul", 0, float(factor)) if behind.values.get("x0") == y:
                change = {"factor": factor}
            case (str(name), 0) if behind.values.get("x0") == y and not product.params.get("sums"):
                change = {"epilogue": name}
            case _:
                continue
        program.put(j, None)
        program.put(i, replace(product, values={**product.values, "y": behind.values["y"]}).but(**change))


def _there(program: Program, view: View, i: int) -> bool:
    """Whether all of a value is written before step i."""
    return all(at < i for at, _ in program.writers(view.value))


def _may_have_of_one(product: Step, more: int, max_bindings: int) -> bool:
    """Whether it is a token's product, and may have so many bindings more."""
    return product.op == "mul_mat_vec" and _may_have(product, more, max_bindings)


def _may_have(product: Step, more: int, max_bindings: int) -> bool:
    """Whether a product may have so many bindings more."""
    if product.op not in _PRODUCTS:
        return False
    weight = product.weights["w"][0]
    format = format_of(weight.type, weight.name)
    planes = len(format.planes) - 1 + bool(format.codebook)  # beside the first
    batch = product.op == "mul_mat" or product.params.get("last_row", False)
    have = len(product.values) + len(product.weights) + planes + batch
    return have + more <= max_bindings


def _scale(program: Program, max_bindings: int) -> None:
    """a factor of embeddings within the reading of their rows"""
    for i, rows in program.of("get_rows"):
        j, behind = program.reader(rows.values["y"].value)
        if behind is None or behind.op != "elementwise":
            continue
        match behind.params["expression"]:
            case ("mul", 0, float(factor)):
                program.put(j, None)
                program.put(i, replace(rows, values={"y": behind.values["y"]}).but(scale=factor))


def _norm(program: Program, max_bindings: int) -> None:
    """a norm of whole rows within the products, or the token shifts, of one token that read it"""
    for i, norm in program.of("rms_norm", "norm"):
        x, y = norm.values["x"], norm.values["y"]
        readers = program.readers(y.value)
        if y.n_tokens > 1 or not _of_rows(norm) or not all(_may_norm(step, y) for _, step in readers):
            continue
        products = [step for _, step in readers if step.op == "mul_mat_vec"]
        if not all(_may_have(product, len(norm.weights), max_bindings) for product in products):
            continue
        program.put(i, None)
        eps = {"eps" if norm.op == "rms_norm" else "center_eps": norm.params["eps"]}
        for j, step in readers:
            fused = replace(step, values={**step.values, "x": x}, weights={**step.weights, **norm.weights})
            program.put(j, fused.but(**eps))


def _of_rows(norm: Step) -> bool:
    """Whether it is one of those that products know."""
    x, p = norm.values["x"], norm.params
    whole = x.whole and x.value.in_blocks and x.value is not norm.values["y"].value
    return norm.op == "rms_norm" or (whole and p["kind"] == "layer" and "norm_weight" in norm.weights)


def _may_norm(step: Step, x: View) -> bool:
    normed = {"eps", "center_eps"} & set(step.params)
    return step.op in ("mul_mat_vec", "token_shift") and step.values["x"] == x and not normed


def _last_row(program: Program, max_bindings: int) -> None:
    """the choice of a batch's last row within the product that reads it"""
    for i, copy in program.of("elementwise"):
        if not copy.params.get("last_row"):
            continue
        y, x = copy.values["y"], copy.values["x0"]
        readers = program.readers(y.value)
        if x.whole and all(s.values["x"] == y and _may_have_of_one(s, 1, max_bindings) for _, s in readers):
            program.put(i, None)
            for j, product in readers:
                program.put(j, replace(product, values={**product.values, "x": x}).but(last_row=True))


def _post_norm(program: Program, max_bindings: int) -> None:
    """the addition of a normed branch, and a weight that scales it all, within the product behind it"""
    for i, add in program.of("elementwise"):
        if (sides := _normed_sum(program, add)) is None:
            continue
        x, (j, norm) = sides
        y, scaled = add.values["y"], _scaled_by_weight(program, add)
        y = scaled[1].values["y"] if scaled else y
        readers = program.readers(y.value)
        at, first = readers[0]
        if y.n_tokens > 1 or first.op != "mul_mat_vec" or first.values["x"] != y:
            continue
        if "post" in first.values or "center_eps" in first.params:
            continue
        if not all(step.op in (*_PRODUCTS, "elementwise") for _, step in readers):
            continue
        if not _may_have(first, 4 if scaled else 3, max_bindings):  # post and its weight, the sum, and its scale
            continue
        values = {**first.values, "x": x, "post": norm.values["x"]} | ({"sum": y} if len(readers) > 1 else {})
        weights = {**first.weights, "post_norm_weight": norm.weights["norm_weight"]}
        if scaled:
            weights |= {"sum_scale": next(iter(scaled[1].weights.values()))}
            program.put(scaled[0], None)
        program.put(i, None)
        program.put(j, None)
        program.put(at, replace(first, values=values, weights=weights).but(post_eps=norm.params["eps"]))


def _scaled_by_weight(program: Program, add: Step) -> tuple[int, Step] | None:
    """The product with a single number of the file that is all that reads a sum."""
    i, scaled = program.reader(add.values["y"].value)
    if (
        scaled is None
        or scaled.op != "elementwise"
        or scaled.params["expression"] not in (("mul", 0, 1), ("mul", 1, 0))
    ):
        return None
    return (i, scaled) if [vector.size for (vector,) in scaled.weights.values()] == [1] else None


def _sums(add: Step) -> tuple[View, View] | None:
    """Both sides of an addition of whole values."""
    if add.params["expression"] not in (("add", 0, 1), ("add", 1, 0)) or len(add.values) != 3:
        return None
    x, branch = add.values["x0"], add.values["x1"]
    alike = x.row == branch.row and x.n_tokens == branch.n_tokens and x.whole and branch.whole
    return (x, branch) if alike and x.value is not branch.value else None


def _normed_sum(program: Program, add: Step) -> tuple[View, tuple[int, Step]] | None:
    """Of x + rms_norm(branch): x, and the norm, which nothing else reads."""
    sides = _sums(add)
    for x, normed in (sides, sides[::-1]) if sides else ():
        i, norm = program.writer(normed.value)
        if norm and norm.op == "rms_norm" and len(program.readers(normed.value)) == 1:
            return x, (i, norm)
    return None


def _residual(program: Program, max_bindings: int) -> None:
    """the addition to the residual stream within the product, or the norm, before it"""
    for i, add in program.of("elementwise"):
        found = [(x, j, before) for x, j, before in _branches(program, i, add) if _may_add(program, x, j, before, i)]
        if found:
            x, j, before = found[0]
            program.put(i, None)
            program.put(j, replace(before, values={**before.values, "y": x}).but(epilogue="add"))
            program.substitute(add.values["y"].value, x)
            continue
        for x, j, before in _branches(program, i, add):
            if _there(program, x, j) and _may_have_of_one(before, 1, max_bindings):
                program.put(i, None)
                values = {**before.values, "by": x, "y": add.values["y"]}
                program.put(j, replace(before, values=values).but(epilogue="by_add"))
                break


def _branches(program: Program, i: int, add: Step) -> Iterator[tuple[View, int, Step]]:
    """Of a sum x + branch: x, and what gives the branch, which nothing else reads."""
    sides = _sums(add)
    for x, branch in (sides, sides[::-1]) if sides else ():
        j, before = program.writer(branch.value)
        if before is None or not (before.op in (*_PRODUCTS, "rms_norm") or before.params.get("sums")):
            continue
        if before.params.get("epilogue", "store") == "store" and program.reader(branch.value)[0] == i:
            yield x, j, before


def _may_add(program: Program, x: View, j: int, before: Step, i: int) -> bool:
    """Whether step j may add to x in place: from then on nothing wants x as it was, nor the step itself."""
    uses = [at for at, _ in program.uses(x.value)]
    return not before.reads(x.value) and all(at <= j or at == i for at in uses) and any(at < j for at in uses)


Rule = Callable[[Program, int], None]
_RULES: dict[str, Rule] = {
    "attention": _attention,
    "copies": _copies,
    "scales": _scales,
    "siblings": _siblings,
    "norms": _norms,
    "rotations": _rotations,
    "experts": _experts,
    "epilogue": _epilogue,
    "results": results,
    "inputs": inputs,
    "convolutions": convolutions,
    "scale": _scale,
    "norm": _norm,
    "last_row": _last_row,
    "post_norm": _post_norm,
    "residual": _residual,
    "chains": chains,
    "planes": planes,
}
FUSIONS = {name: rule.__doc__ or "" for name, rule in _RULES.items()}


def _in_lane_order(steps: list[Step]) -> list[Step]:
    """Marks in params["lane_order"] the slots of values that products of one token read, where all kernels can."""
    products = [step for step in steps if step.op in ("mul_mat_vec", "mul_mat_vecs")]
    inputs = [view for step in products for slot, view in step.values.items() if slot in ("x", "post")]
    read = {view.value for view in inputs if view.n_tokens == 1}
    uses = [(s, slot, view.value) for s in steps for slot, view in s.values.items()]
    plain = {value for s, slot, value in uses if slot not in OPERATIONS[s.op].in_lanes}
    chosen = {value for value in read - plain if value.row % 32 == 0}
    return [s.but(lane_order=frozenset(slot for slot, v in s.values.items() if v.value in chosen)) for s in steps]
