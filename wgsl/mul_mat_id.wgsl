// y = W x of each of a token's {{ used }} experts, W quantized: {{ lanes }} lanes share a row of an expert's matrix, {{ rows_per_group }} rows at once.
//   sums:     what the experts give is added up, each times its weight: a row is all of theirs, one behind the other
//   own:      each expert has a part of x
//   routed:   else part i of x is expert i's
//   stacked:  so many weights give results one behind the other; of a gated linear unit, gate and up
//   piece:    of all experts' rows, only some are bound
//   chunk:    with the packed integer dot, as mul_mat_vec_packed, so many blocks of x at a time
{% import "common/reduce.wgsl" as r %}
{% import "common/row_end.wgsl" as end %}
{% import "common/functions.wgsl" as f %}
{% import "common/block_dot.wgsl" as of_block %}
{% import "common/packed_block.wgsl" as dot %}
{% set packed = true if chunk else packed %}
{% set glu = epilogue in f.glu %}
{% set outs = rows_per_group // 2 if glu else rows_per_group %}
{% set experts_rows = piece[1] if piece else n * n_expert %}{# of one weight, that are bound #}
{% set x4 = pitches[0] % 4 == x_first % 4 == (apart[0] if own else 0) % 4 == 0 %}
{% if subgroup %}
enable subgroups;
{% endif %}
{% if chunk %}
requires packed_4x8_integer_dot_product;
{% endif %}
{% include "common/bindings.wgsl" %}
{% import "common/block.wgsl" as w with context %}
{{ w }}
{% include "formats/" ~ format ~ ".wgsl" %}
{% if epilogue not in ("store", "add") %}
{{ f.functions }}
{% endif %}
{{ end.declare(columns, k) }}{{ r.declare(subgroup, workgroup, lanes, rows_per_group) }}
{% if chunk %}
{{ dot.declare(chunk, split) }}
{% endif %}
const NB = {{ k // 32 }}u;  // blocks of a row
const N = {{ n }}u;
const USED = {{ used }}u;

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let lane = local % {{ lanes }}u;
  let out0 = (group.x * {{ workgroup // lanes }}u + local / {{ lanes }}u) * {{ outs }}u;
{% if routed %}
  let route = group.y * {{ pitches[1] }}u;
{% endif %}
{% if not sums %}
  let u = group.z % USED;
  let expert = {{ "routes[route + u]" if routed else "u" }};
  let first = expert * N{{ " + group.z / USED * %du" % (n * n_expert) if stacked > 1 and not glu }};
{% endif %}
  var acc: array<f32, {{ rows_per_group }}>;
{# The bound row that gives result `i`, of those of the expert's that begin at `first`; `there`: whether it is bound #}
{% macro bound_row(first, i) %}
{% set out = "min(out0 + %du, N - 1u)" % (i % outs) %}
{{- "min(%s + %s - %du, %du)" % (first, out, piece[0], piece[1] - 1) if piece else first ~ " + " ~ out }}{{ " + %du" % experts_rows if i >= outs }}
{%- endmacro %}
{% macro there(first, i) %}{{ "%s + out0 + %du - %du < %du" % (first, i, piece[0], piece[1]) if piece else "true" }}{% endmacro %}
{% if not sums %}
{% for i in range(rows_per_group) %}
  let row{{ i }} = {{ bound_row("first", i) }};
{% endfor %}
{% endif %}
{# Where block `i` of all that a row is made of lies: block b of expert u's part #}
{% macro block_of(i) %}
{% if sums %}
    let u = ({{ i }}) / NB;
    let b = ({{ i }}) % NB;
{% else %}
    let b = {{ i }};
{% endif %}
{% endmacro %}
{# The weights of block `i`: of row r in {{ "`w ~ r`" }}, and with sums the expert's share of it #}
{% macro weights(w, i) %}
{% if sums %}
    let u{{ w }} = ({{ i }}) / NB;
    let first{{ w }} = routes[route + u{{ w }}] * N;
    let share{{ w }} = bitcast<f32>(routes[route + USED + u{{ w }}]){{ " * tensor_scales[routes[route + u%s]]" % w if scaled }};
{% endif %}
{% for r in range(rows_per_group) %}
    let {{ w }}{{ r }} = load32({{ "(%s) * NB + (%s) %% NB" % (bound_row("first" ~ w, r), i) if sums else "row%d * NB + %s" % (r, i) }});
{% endfor %}
{% endmacro %}
{% macro share(w, r) %}{{ "select(0.0, share%s, %s) * " % (w, there("first" ~ w, r)) if sums }}{% endmacro %}
{# Its activations, a0 to a7 #}
{% macro activations() %}
{% if x4 %}
    let at = {{ "(group.y * %du + %du + u * %du) / 4u" % (pitches[0], x_first, apart[0]) if own else "group.y * %du" % (pitches[0] // 4) }} + 8u * b;
{% for j in range(8) %}
    let a{{ j }} = {{ end.read(columns, k, "x[at + %du]" % j, "8u * b + %du" % j) }};
{% endfor %}
{% else %}
    let at = group.y * {{ pitches[0] }}u + {{ x_first }}u{{ " + u * %du" % apart[0] if own }} + 32u * b;
{% for j in range(8) %}
    let a{{ j }} = {{ end.read(columns, k, "vec4<f32>(x[at + %du], x[at + %du], x[at + %du], x[at + %du])" % (4 * j, 4 * j + 1, 4 * j + 2, 4 * j + 3), "8u * b + %du" % j) }};
{% endfor %}
{% endif %}
{% endmacro %}
{% set total = (used if sums else 1) * (k // 32) %}
{% if chunk %}
  for (var begin = 0u; begin < {{ total }}u; begin += {{ chunk }}u) {
    let count = min({{ chunk }}u, {{ total }}u - begin);
{% if chunk < total %}
    workgroupBarrier();
{% endif %}
{% call(numbers) dot.pack("count", chunk, split, workgroup, 1) %}
{{ block_of("begin + i") }}{{ activations() }}{% endcall %}
    workgroupBarrier();
    var i = lane;
{% for at_once in ([blocks, 1] if blocks > 1 else [1]) %}
    for (; i{{ " + %du" % ((at_once - 1) * lanes) if at_once > 1 }} < count; i += {{ at_once * lanes }}u) {
{% for k in range(at_once) %}
{{ weights("w%d_" % k, "begin + i + %du" % (k * lanes)) }}{% endfor %}
{% for k in range(at_once) %}
      {
{{ dot.get(chunk, "i + %du" % (k * lanes)) }}{% for r in range(rows_per_group) %}
{{ dot.add(r, "w%d_%d" % (k, r), split, share("w%d_" % k, r)) }}{% endfor %}
      }
{% endfor %}
    }
{% endfor %}
  }
{% else %}
  for (var i = lane; i < {{ total }}u; i += {{ lanes }}u) {
{{ weights("w", "i") }}{{ block_of("i") }}{{ activations() }}{{ of_block.sums() }}
{% for r in range(rows_per_group) %}
    acc[{{ r }}] += {{ share("w", r) }}({{ of_block.product("w%d" % r, split) }});
{% endfor %}
  }
{% endif %}
{{ r.sum(subgroup, workgroup, lanes, rows_per_group) }}
  if (lane == 0u) {
{% for i in range(outs) %}
    if (out0 + {{ i }}u < N{{ " && " ~ there("first", i) if piece and not sums }}) {
      let to = group.y * {{ pitches[2] }}u + {{ y_first }}u + {{ "" if sums else "group.z * %du + " % apart[1] }}out0 + {{ i }}u;
      var v = acc[{{ i }}]{{ " * tensor_scales[expert%s]" % (" + group.z / USED * %du" % n_expert if stacked > 1 and not glu) if scaled and not sums }};
{% if bias and sums %}
      for (var u = 0u; u < USED; u++) {
        let first = routes[route + u] * N;
        if ({{ there("first", i) }}) {
          v += bitcast<f32>(routes[route + USED + u]) * bias[first + out0 + {{ i }}u{{ " - %du" % piece[0] if piece }}];
        }
      }
{% elif bias %}
      v += bias[row{{ i }}];
{% endif %}
{% if factor %}
      v *= {{ factor }};
{% endif %}
{% if glu %}
      v = op_{{ epilogue }}(v, acc[{{ i + outs }}]{{ " * tensor_scales[%du + expert]" % n_expert if scaled }}{{ " + bias[row%d]" % (i + outs) if bias }});
{% elif epilogue not in ("store", "add") %}
      v = op_{{ epilogue }}(v);
{% endif %}
      y[to] {{ "+=" if epilogue == "add" else "=" }} v;
    }
{% endfor %}
  }
}
