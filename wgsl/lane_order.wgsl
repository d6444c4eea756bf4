// Moves a vector into lane order (see common/lanes.wgsl). job: its length / 4.
{% include "common/bindings.wgsl" %}
@compute @workgroup_size({{ workgroup }})
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x < job[0]) { w[id.x % 8u * (job[0] / 8u) + id.x / 8u] = raw[id.x]; }
}
