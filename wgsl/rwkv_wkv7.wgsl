// RWKV 7's recurrence: one workgroup a head, an invocation for each column of its matrix, which it holds in registers while it
// goes through the tokens, {{ chunk }} at a time: first what all columns need of these is made, at last their results are normed
//   mixed: x has values of this layer too, and how much of the first layer's, v, is in their place
{% import "common/lanes.wgsl" as order %}
{% include "common/bindings.wgsl" %}
{% set at = dict(places) %}
{% set n = n_head * size %}
const S = {{ size }}u;
const Q = {{ size // 4 }}u;  // vec4 of a head
var<workgroup> r: array<vec4<f32>, {{ chunk * size // 4 }}>;
var<workgroup> fade: array<vec4<f32>, {{ chunk * size // 4 }}>;
var<workgroup> k: array<vec4<f32>, {{ chunk * size // 4 }}>;
var<workgroup> kk: array<vec4<f32>, {{ chunk * size // 4 }}>;  // of any length
var<workgroup> akk: array<vec4<f32>, {{ chunk * size // 4 }}>;
var<workgroup> own: array<f32, {{ chunk * size }}>;
var<workgroup> found: array<f32, {{ chunk * size }}>;
fn sigmoid(a: vec4<f32>) -> vec4<f32> { return 1.0 / (1.0 + exp(-a)); }
fn of_x(i: u32) -> vec4<f32> { return vec4<f32>(x[i], x[i + 1u], x[i + 2u], x[i + 3u]); }
fn of_head(i: u32) -> vec4<f32> { return vec4<f32>(of_heads[i], of_heads[i + 1u], of_heads[i + 2u], of_heads[i + 3u]); }

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let head = group.x * S;
  let n_tokens = batch[{{ io.n_tokens }}u];
  let begins = batch[{{ io.n_past }}u] == 0u;
  let column = head * S + lane;  // neighbours hold neighbours
  var s: array<vec4<f32>, {{ size // 4 }}>;
  for (var j = 0u; j < Q; j++) {
    for (var c = 0u; c < 4u; c++) { s[j][c] = select(state[column + (4u * j + c) * S], 0.0, begins); }
  }
  for (var first = 0u; first < n_tokens; first += {{ chunk }}u) {
    let count = min({{ chunk }}u, n_tokens - first);
    for (var u = lane; u < count * Q; u += S) {
      let i = head + u % Q * 4u;
      let row = (first + u / Q) * {{ at["x"][1] }}u + {{ at["x"][0] }}u + i;
      let key = of_x(row + {{ 2 * n }}u);
      let a = sigmoid(of_x(row + {{ 3 * n }}u));
      r[u] = of_x(row);
      fade[u] = exp(-0.6065306597126334 * sigmoid(of_x(row + {{ n }}u)));
      k[u] = key * (1.0 + (a - 1.0) * of_head(i + {{ n }}u));
      kk[u] = key * of_head(i);
      akk[u] = a * kk[u];
    }
    for (var t = 0u; t < count; t++) {
      var value = v[(first + t) * {{ at["v"][1] }}u + {{ at["v"][0] }}u + head + lane];
{% if mixed %}
      let row = (first + t) * {{ at["x"][1] }}u + {{ at["x"][0] }}u + head + lane;
      let mine = x[row + {{ 5 * n }}u];
      value = mine + (value - mine) / (1.0 + exp(-x[row + {{ 6 * n }}u]));
{% endif %}
      own[t * S + lane] = value;
    }
    workgroupBarrier();
    for (var t = 0u; t < count; t++) {
      var told = 0.0;
      var square = 0.0;
      for (var j = 0u; j < Q; j++) {
        let key = kk[t * Q + j];
        told += dot(s[j], key);
        square += dot(key, key);
      }
      let length = max(sqrt(square), {{ least }});
      let back = told / length / length;
      let value = own[t * S + lane];
      var sum = 0.0;
      var bonus = 0.0;
      for (var j = 0u; j < Q; j++) {
        let i = t * Q + j;
        s[j] = s[j] * fade[i] - back * akk[i] + value * k[i];
        sum += dot(s[j], r[i]);
        bonus += dot(r[i] * k[i], of_head(head + 4u * j + {{ 2 * n }}u));
      }
      found[t * S + lane] = sum;
      own[t * S + lane] = bonus * value;
    }
    workgroupBarrier();
    for (var t = 0u; t < count; t++) {
      var total = 0.0;
      for (var j = 0u; j < S; j++) { total += found[t * S + j]; }
      let mean = total / f32(S);
      var square = 0.0;
      for (var j = 0u; j < S; j++) { square += (found[t * S + j] - mean) * (found[t * S + j] - mean); }
      let i = head + lane;
      let normed = (found[t * S + lane] - mean) * inverseSqrt(square / f32(S) + {{ eps }});
      let gate = x[(first + t) * {{ at["x"][1] }}u + {{ at["x"][0] + 4 * n }}u + i];
      y[(first + t) * {{ at["y"][1] }}u + {{ at["y"][0] }}u + {{ order.element("i", n) if lanes else "i" }}] =
        (normed * of_heads[i + {{ 3 * n }}u] + of_heads[i + {{ 4 * n }}u] + own[t * S + lane]) * gate;
    }
    workgroupBarrier();
  }
  for (var j = 0u; j < Q; j++) {
    for (var c = 0u; c < 4u; c++) { state[column + (4u * j + c) * S] = s[j][c]; }
  }
}
