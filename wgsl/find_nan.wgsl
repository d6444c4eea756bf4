// The first block of 32 weights in which a weight is NaN or infinite: its number into found, which begins with the largest.
{% include "common/bindings.wgsl" %}
{% import "common/block.wgsl" as w with context %}
{{ w }}
{% include "formats/" ~ format ~ ".wgsl" %}
const WG = {{ workgroup }}u;
const BLOCKS = {{ blocks }}u;

// Of the largest without its sign, as bits: infinity's, and NaN's above them
fn bits(v: vec4<f32>) -> u32 {
  let b = bitcast<vec4<u32>>(v) & vec4<u32>(0x7fffffffu);
  return max(max(b.x, b.y), max(b.z, b.w));
}

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let first = (group.x + group.y * 65535u) * {{ workgroup * each }}u + lane;
  for (var n = 0u; n < {{ each }}u; n++) {
    let i = first + n * WG;
    if (i >= BLOCKS) { return; }
    let block = load32(i);
    var most = 0u;
{% for j in range(8) %}
    most = max(most, bits({{ w.part("block.d", j) }} * block.q[{{ j }}] + {{ w.part("block.m", j) }}));
{% endfor %}
    if (most >= 0x7f800000u) {
      atomicMin(&found[0], i);
      return;
    }
  }
}
