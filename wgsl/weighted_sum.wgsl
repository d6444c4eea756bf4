// y = the sum of what a token's {{ used }} experts gave, each times its weight
{% include "common/bindings.wgsl" %}
@compute @workgroup_size({{ workgroup }})
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= {{ n }}u) { return; }
  var sum = 0.0;
  for (var u = 0u; u < {{ used }}u; u++) {
    sum += bitcast<f32>(routes[id.y * {{ pitches[1] }}u + {{ used }}u + u]) * x[id.y * {{ pitches[0] }}u + u * {{ n }}u + id.x];
  }
  y[id.y * {{ pitches[2] }}u + id.x] = sum;
}
