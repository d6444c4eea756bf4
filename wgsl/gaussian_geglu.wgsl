// y = gelu(max(gate - cutoff, 0)) * up, where cutoff is {{ deviations }} standard deviations of the row above its mean: one workgroup a token
{% import "common/lanes.wgsl" as order %}
{% import "common/functions.wgsl" as f %}
{% import "common/row_sum.wgsl" as row %}
{% include "common/bindings.wgsl" %}
{{ f.functions }}
const N = {{ n }}u;
{{ row.declare(workgroup) }}
@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
{% for slot, place in places %}
  let {{ slot }}0 = group.y * {{ place[1] }}u + {{ place[0] }}u;
{% endfor %}
  var total = 0.0;
  for (var i = lane; i < N; i += {{ workgroup }}u) { total += gate[gate0 + i]; }
  let mean = sum_of(lane, total) / f32(N);
  var square = 0.0;
  for (var i = lane; i < N; i += {{ workgroup }}u) { square += (gate[gate0 + i] - mean) * (gate[gate0 + i] - mean); }
  let cutoff = mean + {{ deviations }} * sqrt(sum_of(lane, square) / {{ n - 1 }}.0);
  for (var i = lane; i < N; i += {{ workgroup }}u) {
    y[y0 + {{ order.element("i", n) if lanes else "i" }}] = op_geglu(max(gate[gate0 + i] - cutoff, 0.0), {{ up }}[up0 + i]);
  }
}
