// Sine and cosine of pair i at a position. Angles are turns times 2^32, whose 32-bit wrap is the fraction of a turn:
// exact at any position, and always within half a turn, where the GPU's sine is precise.
fn rope_turn(position: u32, pair: u32) -> vec2<f32> {
  let angle = f32(bitcast<i32>(position * phases[pair])) * 1.4629180792671596e-9;  // 2 pi / 2^32
  return vec2<f32>(cos(angle), sin(angle)) * {{ magnitude }};
}
// First and second index of a pair
{% if mode == "norm" %}
fn rope_pair(i: u32) -> vec2<u32> { return vec2<u32>(2u * i, 2u * i + 1u); }
{% else %}
fn rope_pair(i: u32) -> vec2<u32> { return vec2<u32>(i, i + {{ n_dims // 2 }}u); }
{% endif %}
fn rotate(v: vec2<f32>, turn: vec2<f32>) -> vec2<f32> {
  return vec2<f32>(v.x * turn.x - v.y * turn.y, v.x * turn.y + v.y * turn.x);
}
