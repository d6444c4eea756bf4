// Norms of groups of numbers of each row, {{ {"rms": "by their root mean square", "layer": "to mean 0 and variance 1", "l2": "to length 1"}[kind] }}: one workgroup a group
//   epilogue: what is written, of the result and `gate`
{% import "common/functions.wgsl" as f %}
{% import "common/row_sum.wgsl" as row %}
{% import "common/lanes.wgsl" as order %}
{% import "common/operand.wgsl" as operand %}
{% include "common/bindings.wgsl" %}
{{ f.functions }}
{{ row.declare(workgroup) }}
@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
{% macro of(g, before) %}
{% set i = "(group.x - %du)" % before if before else "group.x" %}
    size = {{ g.size }}u;
    x0 = group.y * {{ x_pitch }}u + {{ i }} * {{ g.size }}u + {{ g.first }}u;
    y0 = group.y * {{ y_pitch }}u + {{ i }} * {{ g.size }}u + {{ g.to }}u;
    w0 = {{ i }} * {{ g.step }}u + {{ g.weight }}u;
{% endmacro %}
  let t = group.y;
  var size = 0u;
  var x0 = 0u;
  var y0 = 0u;
  var w0 = 0u;
{% for g in groups %}
{% set before = groups[:loop.index0] | sum(attribute="count") %}
  {{ "else " if not loop.first }}{{ "if (group.x < %du) " % (before + g.count) if not loop.last }}{
{{ of(g, before) }}  }
{% endfor %}
{% if kind == "layer" %}
  var total = 0.0;
  for (var i = lane; i < size; i += {{ workgroup }}u) { total += {{ x }}[x0 + i]; }
  let mean = sum_of(lane, total) / f32(size);
{% endif %}
{% set at = order.element("i", lanes) if lanes else "w0 + i" %}
{% set value = "(%s[x0 + i]%s)" % (x, " - mean" if kind == "layer" else "") %}
  var square = 0.0;
  for (var i = lane; i < size; i += {{ workgroup }}u) { square += {{ value }} * {{ value }}; }
{% if kind == "l2" %}
  let factor = 1.0 / max(sqrt(sum_of(lane, square)), {{ eps }});
{% else %}
  let factor = inverseSqrt(sum_of(lane, square) / f32(size) + {{ eps }});
{% endif %}
  for (var i = lane; i < size; i += {{ workgroup }}u) {
    let v0 = {{ value }} * factor{{ " * %s[%s]" % (scale, at) if scale }}{{ " + %s[%s]" % (shift, at) if shift }};
{% if gate %}
    let v1 = {{ operand.number(gate, "(group.x * size + i)") }};
{% endif %}
    y[{{ order.element("(y0 + i)", y_lanes) if y_lanes else "y0 + i" }}] = {{ f.of(epilogue) }};
  }
}
