// Moves numbers of a vector of the file, in {{ type }}, to where they lie as float32{{ ", in lane order (common/lanes.wgsl)" if lane_order }}. job: how many there
// are, which one of the whole vector they begin with, and how many that has, in whole blocks of 32.
{% include "common/bindings.wgsl" %}
{% if type == "f32" %}
fn number(i: u32) -> f32 { return bitcast<f32>(raw[i]); }
{% elif type == "f16" %}
fn number(i: u32) -> f32 { return unpack2x16float(raw[i / 2u])[i & 1u]; }
{% else %}
fn number(i: u32) -> f32 { return bitcast<f32>((raw[i / 2u] >> (16u * (i & 1u))) << 16u); }
{% endif %}

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let n = id.x + id.y * {{ 65535 * workgroup }}u;
  if (n >= job[0]) { return; }
  let o = job[1] + n;
{% if lane_order %}
  let blocks = job[2] / 32u;
  w[(o % 32u / 4u * blocks + o / 32u) * 4u + o % 4u] = number(n);
{% else %}
  w[o] = number(n);
{% endif %}
}
