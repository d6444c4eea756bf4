// y[t] = row tokens[t] of the weight: one workgroup a token
{% include "common/bindings.wgsl" %}
{% include "common/block.wgsl" %}
{% include "formats/" ~ format ~ ".wgsl" %}
const NB = {{ k // 32 }}u;

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let t = group.y;
  let row = min(batch[{{ io.tokens }}u + t], {{ rows - 1 }}u);
  for (var b = lane; b < NB; b += {{ workgroup }}u) {
    let block = load32(row * NB + b);
    for (var j = 0u; j < 8u; j++) { y[{{ "j * NB + b" if y_lanes else "(t * NB + b) * 8u + j" }}] = block.d * block.q[j] + block.m; }
  }
}
