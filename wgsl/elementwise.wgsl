// An expression, number by number: y = {{ expression }}
{% import "common/lanes.wgsl" as order %}
{% import "common/functions.wgsl" as f %}
{% include "common/bindings.wgsl" %}
{{ f.functions }}
{# Where number i of token t of an operand is #}
{% macro place(o) %}
{%- set i = "(i %% %du)" % o.repeats if o.repeats else "i" %}
{%- set i = "%s / %du * %du + %s %% %du" % (i, o.each, o.apart, i, o.each) if o.each else i %}
{%- set at = "(%s + %du)" % (i, o.first) if o.first else "(%s)" % i %}
{{- "t * %du + " % o.pitch if o.pitch }}{{ order.element(at, o.lanes) if o.lanes else at }}
{%- endmacro %}
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
  let v{{ loop.index0 }} = {{ o.slot }}[{{ place(o) }}];
{% endfor %}
  y[{{ place(y) }}] = {{ f.of(expression) }};
}
