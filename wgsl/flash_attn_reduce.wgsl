// Puts the parts that flash_attn_vec's splits left together: one workgroup a query head.
{% import "common/lanes.wgsl" as order %}
{% include "common/bindings.wgsl" %}
const D4 = {{ head_dim // 4 }}u;
const SPLITS = {{ splits }}u;

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let first = group.x * SPLITS * (D4 + 1u);
{# Unrolled, so that all loads wait for memory together #}
{% for s in range(splits) %}
  let last{{ s }} = x[first + {{ s }}u * (D4 + 1u) + D4].xy;
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
  for (var i = lane; i < D4; i += {{ workgroup }}u) {
    var sum = vec4<f32>(0.0);
{% for s in range(splits) %}
    sum += fade{{ s }} * x[first + {{ s }}u * (D4 + 1u) + i];
{% endfor %}
    let at = group.x * D4 + i;
    y[{{ order.vector("at", n_head * head_dim) if y_lanes else "at" }}] = sum / norm;
  }
}
