// Cosine and sine of pair i at a position. Angles are turns times 2^32, whose 32-bit wrap is the fraction of a turn:
// exact at any position. WebGPU lets sin and cos be 2^-11 off, so these are Taylor series, on an eighth of a turn.
fn rope_turn(position: u32, pair: u32) -> vec2<f32> {
  let turn = position * phases[pair];
  let quarter = (turn + 0x20000000u) >> 30u;
  let x = f32(bitcast<i32>(turn - (quarter << 30u))) * 1.4629180792671596e-9;  // 2 pi / 2^32
  let z = x * x;
  let s = x * (1.0 + z * (-1.0 / 6.0 + z * (1.0 / 120.0 + z * (-1.0 / 5040.0 + z * (1.0 / 362880.0)))));
  let c = 1.0 + z * (-0.5 + z * (1.0 / 24.0 + z * (-1.0 / 720.0 + z * (1.0 / 40320.0))));
  var v = vec2<f32>(c, s);
  if ((quarter & 1u) == 1u) { v = vec2<f32>(-s, c); }
  if ((quarter & 2u) == 2u) { v = -v; }
  return v * {{ magnitude }};
}
// First and second index of a pair
{% if mode == "norm" %}
fn rope_pair(i: u32) -> vec2<u32> { return vec2<u32>({{ offset }}u + 2u * i, {{ offset }}u + 2u * i + 1u); }
{% else %}
fn rope_pair(i: u32) -> vec2<u32> { return vec2<u32>({{ offset }}u + i, {{ offset + n_dims // 2 }}u + i); }
{% endif %}
// Number i of those that stay as they are
fn rope_rest(i: u32) -> u32 { return select(i + {{ n_dims }}u, i, i < {{ offset }}u); }
fn rotate(v: vec2<f32>, turn: vec2<f32>) -> vec2<f32> {
  return vec2<f32>(v.x * turn.x - v.y * turn.y, v.x * turn.y + v.y * turn.x);
}
