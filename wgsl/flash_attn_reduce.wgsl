// Puts the parts that flash_attn_vec's splits left together: one workgroup a query head.
{% import "common/lanes.wgsl" as order %}
{% include "common/bindings.wgsl" %}
const W4 = {{ width // 4 }}u;
const SPLITS = {{ splits }}u;

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let first = group.x * SPLITS * (W4 + 1u);
{# Unrolled, so that all loads wait for memory together #}
{% for s in range(splits) %}
  let last{{ s }} = x[first + {{ s }}u * (W4 + 1u) + W4].xy;
{% endfor %}
  var top = last0.x;
{% for s in range(1, splits) %}
  top = max(top, last{{ s }}.x);
{% endfor %}
  var norm = 0.0;
{% for s in range(splits) %}
  let fade{{ s }} = exp(last{{ s }}.x - top);
  norm += fade{{ s }} * last{{ s }}.y;
{% endfor %}
  for (var i = lane; i < W4; i += {{ workgroup }}u) {
    var sum = vec4<f32>(0.0);
{% for s in range(splits) %}
    sum += fade{{ s }} * x[first + {{ s }}u * (W4 + 1u) + i];
{% endfor %}
{% if width == head_dim %}
    let at = group.x * W4 + i;
    y[{{ order.vector("at", n_head * head_dim) if y_lanes else "at" }}] = sum / norm;
{% else %}
{{ order.write_part("group.x * %du" % head_dim, "4u * i", "sum / norm", head_dim, n_head, y_lanes) }}{% endif %}
  }
}
