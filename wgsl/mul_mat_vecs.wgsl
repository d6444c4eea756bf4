// y = W x for one token, of several W, each with an x of its own: the workgroups of one product are behind those of another.
// {{ lanes }} lanes share a row, {{ rows_per_group }} rows at once
//   x_lanes: each x is in lane order (common/lanes.wgsl)
{% import "common/reduce.wgsl" as r %}
{% import "common/functions.wgsl" as f %}
{% import "common/block_dot.wgsl" as of_block %}
{% set per_workgroup = workgroup // lanes * rows_per_group %}
{% if subgroup %}
enable subgroups;
{% endif %}
{% include "common/bindings.wgsl" %}
{% import "common/block.wgsl" as w with context %}
{{ w }}
{% for format in formats %}
{% set functions %}{% include "formats/" ~ format ~ ".wgsl" %}{% endset %}
{{ functions | of_one(loop.index0) }}
{% endfor %}
{{ f.functions }}
{{ r.declare(subgroup, workgroup, lanes, rows_per_group) }}
fn before_end(v: vec4<f32>, i: u32, columns: u32) -> vec4<f32> {  // behind the end of x there may be anything
  return select(vec4<f32>(0.0), v, vec4<u32>(4u * i) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(columns));
}

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let lane = local % {{ lanes }}u;
  let row = (group.x * {{ workgroup // lanes }}u + local / {{ lanes }}u) * {{ rows_per_group }}u;
  var acc: array<f32, {{ rows_per_group }}>;
{% set at = namespace(workgroup=0) %}
{% for p in products %}
{% set i = loop.index0 %}
{% set blocks = (p.columns + 31) // 32 %}
{% set first = at.workgroup * per_workgroup %}
{% set at.workgroup = at.workgroup + (p.rows + per_workgroup - 1) // per_workgroup %}
  {{ "else " if i }}{{ "if (group.x < %du) " % at.workgroup if not loop.last }}{
    let o = row - {{ first }}u;
    for (var b = lane; b < {{ blocks }}u; b += {{ lanes }}u) {
{% for n in range(rows_per_group) %}
      let w{{ n }} = load32_{{ i }}(min(o + {{ n }}u, {{ p.rows - 1 }}u) * {{ blocks }}u + b);
{% endfor %}
{% for j in range(8) %}
{% set place = "%du * %du + b" % (j, blocks) if x_lanes else "8u * b + %du" % j %}
      let a{{ j }} = {{ "before_end(" if p.columns % 32 }}x[{{ p.x // 4 }}u + {{ place }}]{{ ", 8u * b + %du, %du)" % (j, p.columns) if p.columns % 32 }};
{% endfor %}
{{ of_block.sums() }}
{% for n in range(rows_per_group) %}
      acc[{{ n }}] += {{ of_block.product("w%d" % n, split) }};
{% endfor %}
    }
  }
{% endfor %}
{{ r.sum(subgroup, workgroup, lanes, rows_per_group) }}
  if (lane == 0u) {
{% set at.workgroup = 0 %}
{% for p in products %}
{% set first = at.workgroup * per_workgroup %}
{% set at.workgroup = at.workgroup + (p.rows + per_workgroup - 1) // per_workgroup %}
    {{ "else " if not loop.first }}{{ "if (group.x < %du) " % at.workgroup if not loop.last }}{
      let o = row - {{ first }}u;
{% for n in range(rows_per_group) %}
      if (o + {{ n }}u < {{ p.rows }}u) {
        y[o + {{ p.y + n }}u] = {{ "acc[%d]" % n if p.function == "store" else "op_%s(acc[%d])" % (p.function, n) }};
      }
{% endfor %}
    }
{% endfor %}
  }
}
