// An expression, number by number: y = {{ expression }}
{% import "common/functions.wgsl" as f %}
{% import "common/operand.wgsl" as operand %}
{% include "common/bindings.wgsl" %}
{{ f.functions }}
@compute @workgroup_size({{ workgroup }})
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.x;
  if (i >= {{ n }}u) { return; }
{% if last_row %}
  let t = batch[{{ io.n_tokens }}u] - 1u;
{% else %}
  let t = id.y;
{% endif %}
{% for name, o in operands %}
  let v{{ loop.index0 }} = {{ operand.number(o) }};
{% endfor %}
  {{ operand.number(y) }} = {{ f.of(expression) }};
}
