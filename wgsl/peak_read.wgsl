// The device's read bandwidth: every invocation reads its share of `src` once, neighbours side by side.
{% include "common/bindings.wgsl" %}

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let n = arrayLength(&src);
  var sum = vec4<u32>(0u);
  for (var i = id.x; i < n; i += groups.x * {{ workgroup }}u) { sum ^= src[i]; }
  if (all(sum == vec4<u32>(0x9e3779b9u))) { y[0] = 1u; }  // hardly ever, but the reads may not be left out
}
