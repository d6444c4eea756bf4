// RWKV 7's recurrence: one workgroup a head, whose first {{ size }} invocations each hold a column of its matrix in registers while
// they go through the tokens, {{ chunk }} at a time. All invocations make before that what these need, and norm their results
//   of_heads: w_0, a_0, k_k, k_a, r_k, scale and shift of the norm, v_0
//   mixed:    x has values of this layer too, and how much of the first layer's, v, is in their place
{% import "common/lanes.wgsl" as order %}
{% include "common/bindings.wgsl" %}
{% set n = n_head * size // 4 %}{# vec4 of a token #}
{% set plane = apart // 4 %}
const S = {{ size }}u;
const Q = {{ size // 4 }}u;  // vec4 of a head
const WG = {{ workgroup }}u;
{% for name in ("r", "fade", "k", "kk", "akk", "own", "gate") %}
var<workgroup> {{ name }}: array<vec4<f32>, {{ chunk * size // 4 }}>;
{% endfor %}
var<workgroup> sums: array<vec2<f32>, {{ chunk * size // 4 }}>;  // of kk's squares and of r k r_k; the first of a token is its total
var<workgroup> found: array<f32, {{ chunk * size }}>;
fn sigmoid(a: vec4<f32>) -> vec4<f32> { return 1.0 / (1.0 + exp(-a)); }
fn total(a: vec4<f32>) -> f32 { return dot(a, vec4<f32>(1.0)); }
fn of_found(i: u32) -> vec4<f32> { return vec4<f32>(found[i], found[i + 1u], found[i + 2u], found[i + 3u]); }

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let head = group.x * Q;
  let n_tokens = batch[{{ io.n_tokens }}u];
  let begins = batch[{{ io.n_past }}u] == 0u;
  let of_state = group.x * S * S + lane;  // neighbours hold neighbours
  var s: array<vec4<f32>, {{ size // 4 }}>;
  if (lane < S && !begins) {
    for (var j = 0u; j < Q; j++) {
      let i = of_state + 4u * j * S;
      s[j] = vec4<f32>(state[i], state[i + S], state[i + 2u * S], state[i + 3u * S]);
    }
  }
  for (var first = 0u; first < n_tokens; first += {{ chunk }}u) {
    let count = min({{ chunk }}u, n_tokens - first);
    for (var u = lane; u < count * Q; u += WG) {
      let i = head + u % Q;
      let row = (first + u / Q) * {{ pitch // 4 }}u + i;
      let key = x[row + {{ 2 * plane }}u];
      let a = sigmoid(x[row + {{ 3 * plane }}u] + of_heads[i + {{ n }}u]);
      r[u] = x[row];
      fade[u] = exp(-0.6065306597126334 * sigmoid(x[row + {{ plane }}u] + of_heads[i]));
      k[u] = key * (1.0 + (a - 1.0) * of_heads[i + {{ 3 * n }}u]);
      kk[u] = key * of_heads[i + {{ 2 * n }}u];  // of any length
      akk[u] = a * kk[u];
      sums[u] = vec2<f32>(dot(kk[u], kk[u]), dot(r[u] * k[u], of_heads[i + {{ 4 * n }}u]));
      var value = v[row];
{% if mixed %}
      let mine = x[row + {{ 5 * plane }}u];
      value = mine + (value - mine) * sigmoid(x[row + {{ 6 * plane }}u] + of_heads[i + {{ 7 * n }}u]);
{% endif %}
      own[u] = value;
      gate[u] = x[row + {{ 4 * plane }}u];
    }
    workgroupBarrier();
    for (var t = lane; t < count; t += WG) {
      var sum = vec2<f32>(0.0);
      for (var j = 0u; j < Q; j++) { sum += sums[t * Q + j]; }
      sums[t * Q] = sum;
    }
    workgroupBarrier();
    if (lane < S) {
      for (var t = 0u; t < count; t++) {
        var told = vec4<f32>(0.0);
        for (var j = 0u; j < Q; j++) { told += s[j] * kk[t * Q + j]; }
        let length = max(sqrt(sums[t * Q].x), {{ least }});
        let back = total(told) / length / length;
        let value = own[t * Q + lane / 4u][lane % 4u];
        var sum = vec4<f32>(0.0);
        for (var j = 0u; j < Q; j++) {
          let i = t * Q + j;
          s[j] = s[j] * fade[i] - back * akk[i] + value * k[i];
          sum += s[j] * r[i];
        }
        found[t * S + lane] = total(sum);
      }
    }
    workgroupBarrier();
    for (var u = lane; u < count * Q; u += WG) {
      let t = u / Q;
      var sum = vec4<f32>(0.0);
      for (var j = 0u; j < S; j += 4u) { sum += of_found(t * S + j); }
      let mean = total(sum) / f32(S);
      var square = vec4<f32>(0.0);
      for (var j = 0u; j < S; j += 4u) { square += (of_found(t * S + j) - mean) * (of_found(t * S + j) - mean); }
      let i = head + u % Q;
      let normed = (of_found(4u * u) - mean) * inverseSqrt(total(square) / f32(S) + {{ eps }});
      let result = normed * of_heads[i + {{ 5 * n }}u] + of_heads[i + {{ 6 * n }}u] + sums[t * Q].y * own[u];
      y[(first + t) * {{ pitch // 4 }}u + {{ order.vector("i", 4 * n) if lanes else "i" }}] = result * gate[u];
    }
    workgroupBarrier();
  }
  if (lane < S) {
    for (var j = 0u; j < Q; j++) {
      let i = of_state + 4u * j * S;
{% for c in range(4) %}
      state[i{{ " + %du" % (c * size) if c }}] = s[j].{{ "xyzw"[c] }};
{% endfor %}
    }
  }
}
