// Mamba 2's recurrence: one workgroup for a head and {{ workgroup }} of its numbers, an invocation for each of them, which holds
// its {{ d_state }} states in registers and goes through the tokens
{% include "common/bindings.wgsl" %}
{% set at = dict(places) %}
{% set inner = n_head * head_dim %}
const N = {{ d_state }}u;

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let h = group.x;
  let i = group.y * {{ workgroup }}u + lane;
  if (i >= {{ head_dim }}u) { return; }
  let n_tokens = batch[{{ io.n_tokens }}u];
  let begins = batch[{{ io.n_past }}u] == 0u;
  let of_head = h * N * {{ head_dim }}u + i;  // neighbours hold neighbours
  var s: array<f32, {{ d_state }}>;
  for (var n = 0u; n < N; n++) { s[n] = select(state[of_head + n * {{ head_dim }}u], 0.0, begins); }
  for (var t = 0u; t < n_tokens; t++) {
    let row = t * {{ at["xbc"][1] }}u + {{ at["xbc"][0] }}u;
    let raw = dt[t * {{ at["dt"][1] }}u + {{ at["dt"][0] }}u + h] + dt_bias[h];
    let step = max(raw, 0.0) + log(1.0 + exp(-abs(raw)));
    let fade = exp(step * a[h]);
    let x = xbc[row + h * {{ head_dim }}u + i];
    let b0 = row + {{ inner }}u + h / {{ n_head // n_group }}u * N;
    let c0 = b0 + {{ n_group }}u * N;
    let taken = step * x;
    var sum = 0.0;
    for (var n = 0u; n < N; n++) {
      s[n] = s[n] * fade + taken * xbc[b0 + n];
      sum += s[n] * xbc[c0 + n];
    }
    y[t * {{ at["y"][1] }}u + {{ at["y"][0] }}u + h * {{ head_dim }}u + i] = sum + d[h] * x;
  }
  for (var n = 0u; n < N; n++) { state[of_head + n * {{ head_dim }}u] = s[n]; }
}
