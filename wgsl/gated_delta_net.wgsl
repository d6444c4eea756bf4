// The gated delta rule: one workgroup a head, an invocation for each column of its matrix, which it holds in registers while
// it goes through the tokens; keys and queries come through workgroup memory
{% include "common/bindings.wgsl" %}
{% set at = dict(places) %}
const S = {{ size }}u;
const WG = {{ workgroup }}u;
var<workgroup> key: array<f32, {{ size }}>;
var<workgroup> query: array<f32, {{ size }}>;
var<workgroup> squares: array<vec2<f32>, {{ workgroup }}>;

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let h = group.x;
  let pair = {{ "h / %du" % (n_head // n_key) if grouped else "h %% %du" % n_key }};
  let n_tokens = batch[{{ io.n_tokens }}u];
  let begins = batch[{{ io.n_past }}u] == 0u;
  let column = min(lane, S - 1u);
  let of_head = h * S * S + column;  // neighbours hold neighbours
  var s: array<f32, {{ size }}>;
  for (var i = 0u; i < S; i++) { s[i] = select(state[of_head + i * S], 0.0, begins); }
  for (var t = 0u; t < n_tokens; t++) {
    let row = t * {{ at["qkv"][1] }}u + {{ at["qkv"][0] }}u;
    var q = 0.0;
    var k = 0.0;
    if (lane < S) {
      q = qkv[row + pair * S + lane];
      k = qkv[row + ({{ n_key }}u + pair) * S + lane];
    }
    squares[lane] = vec2<f32>(q * q, k * k);
    for (var half = WG / 2u; half > 0u; half >>= 1u) {
      workgroupBarrier();
      if (lane < half) { squares[lane] += squares[lane + half]; }
    }
    workgroupBarrier();
    let length = sqrt(squares[0] + {{ eps }});
    if (lane < S) {
      query[lane] = q / length.x * {{ size ** -0.5 }};
      key[lane] = k / length.y;
    }
    workgroupBarrier();
    let raw = alpha[t * {{ at["alpha"][1] }}u + {{ at["alpha"][0] }}u + h] + dt_bias[h];
    let fade = exp(a[h] * (max(raw, 0.0) + log(1.0 + exp(-abs(raw)))));
    let trust = 1.0 / (1.0 + exp(-beta[t * {{ at["beta"][1] }}u + {{ at["beta"][0] }}u + h]));
    var told = 0.0;
    for (var i = 0u; i < S; i++) {
      s[i] *= fade;
      told += s[i] * key[i];
    }
    let delta = trust * (qkv[row + ({{ 2 * n_key }}u + h) * S + column] - told);
    var sum = 0.0;
    for (var i = 0u; i < S; i++) {
      s[i] += key[i] * delta;
      sum += s[i] * query[i];
    }
    if (lane < S) { y[t * {{ at["y"][1] }}u + {{ at["y"][0] }}u + h * S + lane] = sum; }
    workgroupBarrier();
  }
  if (lane < S) {
    for (var i = 0u; i < S; i++) { state[of_head + i * S] = s[i]; }
  }
}
