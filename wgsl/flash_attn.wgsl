// Attention of a batch, one workgroup for {{ queries }} tokens of one head: walks the cache in tiles of {{ keys }} positions up to
// the last token's{{ ", from the first that any of them sees on" if window }}, with an online softmax for each token. {{ lanes }} lanes share a token; each holds a part of its output.
{% import "common/cache.wgsl" as cache %}
{% import "cache/" ~ type_k ~ ".wgsl" as k %}
{% import "cache/" ~ type_v ~ ".wgsl" as v %}
{% include "common/bindings.wgsl" %}
const BQ = {{ queries }}u;
const BK = {{ keys }}u;
const D4 = {{ head_dim // 4 }}u;
const D8 = {{ head_dim // 8 }}u;
const LANES = {{ lanes }}u;
const WG = {{ queries * lanes }}u;
const PARTS = {{ parts }}u;  // vec4 of the output a lane holds

var<workgroup> queries: array<vec4<f32>, {{ queries * head_dim // 4 }}>;
{# Four values of K or V are as exact as the cache has them #}
{% set four = "vec2<u32>" if half else "vec4<f32>" %}
var<workgroup> tile: array<{{ four }}, {{ keys * head_dim // 4 }}>;  // K, then V
var<workgroup> weights: array<f32, {{ queries * keys }}>;

{% if half %}
fn four(v: vec4<f32>) -> vec2<u32> { return vec2<u32>(pack2x16float(v.xy), pack2x16float(v.zw)); }
fn of_four(v: vec2<u32>) -> vec4<f32> { return vec4<f32>(unpack2x16float(v.x), unpack2x16float(v.y)); }
{% else %}
fn four(v: vec4<f32>) -> vec4<f32> { return v; }
fn of_four(v: vec4<f32>) -> vec4<f32> { return v; }
{% endif %}
{{ cache.helpers(ring) }}
{{ k.load("k", head_dim, k_unit, k_scales) }}
{{ v.load("v", head_dim, v_unit, v_scales) }}

@compute @workgroup_size({{ queries * lanes }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let h = group.x;
  let t0 = group.y * BQ;
  let n_tokens = batch[{{ io.n_tokens }}u];
  let n_past = batch[{{ io.n_past }}u];
  let rows = (h / {{ n_head // n_head_kv }}u) * {{ n_ctx }}u;  // before this head's
  for (var i = local; i < BQ * D4; i += WG) {
    let t = t0 + i / D4;
    var q = vec4<f32>(0.0);
    if (t < n_tokens) { q = qkv[t * {{ (n_head + 2 * n_head_kv) * head_dim // 4 }}u + h * D4 + i % D4] * {{ scale }}; }
    queries[i] = q;
  }
  let mine = local / LANES;
  let lane = local % LANES;
  let last = n_past + min(t0 + BQ, n_tokens);  // one past the last position any of these tokens sees
  let own = n_past + t0 + mine;  // this token's position
  var top = -3.4e38;
  var total = 0.0;
  var acc: array<vec4<f32>, {{ parts }}>;
{% if window %}
  let oldest = max(n_past + t0 + 1u, {{ window }}u) - {{ window }}u;  // that the first of these tokens sees
  let own_oldest = max(own + 1u, {{ window }}u) - {{ window }}u;
{% else %}
  let oldest = 0u;
  let own_oldest = 0u;
{% endif %}
  for (var first = oldest; first < last; first += BK) {
    let count = min(BK, last - first);
    workgroupBarrier();
    for (var i = local; i < count * D8; i += WG) {
      let e = k_eight(rows + cache_row(first + i / D8), i % D8);
      tile[2u * i] = four(e.low);
      tile[2u * i + 1u] = four(e.high);
    }
    workgroupBarrier();
    for (var j = lane; j < BK; j += LANES) {
      var score = -3.4e38;
      if (j < count && first + j <= own && first + j >= own_oldest) {
        var s = vec4<f32>(0.0);
        for (var i = 0u; i < D4; i++) { s += queries[mine * D4 + i] * of_four(tile[j * D4 + i]); }
        score = dot(s, vec4<f32>(1.0));
      }
      weights[mine * BK + j] = score;
    }
    workgroupBarrier();
    for (var i = local; i < count * D8; i += WG) {
      let e = v_eight(rows + cache_row(first + i / D8), i % D8);
      tile[2u * i] = four(e.low);
      tile[2u * i + 1u] = four(e.high);
    }
    var new_top = top;
    for (var j = 0u; j < BK; j++) { new_top = max(new_top, weights[mine * BK + j]); }
    let fade = exp(top - new_top);
    top = new_top;
    total *= fade;
    for (var p = 0u; p < PARTS; p++) { acc[p] *= fade; }
    workgroupBarrier();
    for (var j = 0u; j < count; j++) {
      if (first + j <= own && first + j >= own_oldest) {
        let w = exp(weights[mine * BK + j] - new_top);
        total += w;
        for (var p = 0u; p < PARTS; p++) { acc[p] += w * of_four(tile[j * D4 + min(lane + p * LANES, D4 - 1u)]); }
      }
    }
  }
  if (t0 + mine < n_tokens) {
    for (var p = 0u; p < PARTS; p++) {
      let i = lane + p * LANES;
      if (i < D4) { y[(t0 + mine) * {{ n_head * head_dim // 4 }}u + h * D4 + i] = acc[p] / total; }
    }
  }
}
