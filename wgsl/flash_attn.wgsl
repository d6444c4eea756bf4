// Attention of a batch, one workgroup for {{ queries }} tokens of one head: walks the cache in tiles of {{ keys }} positions up to
// the last token's, with an online softmax for each token. {{ lanes }} lanes share a token; each holds a part of its output.
{% include "common/bindings.wgsl" %}
const BQ = {{ queries }}u;
const BK = {{ keys }}u;
const D4 = {{ head_dim // 4 }}u;
const LANES = {{ lanes }}u;
const WG = {{ queries * lanes }}u;
const PARTS = {{ parts }}u;  // vec4 of the output a lane holds

var<workgroup> queries: array<vec4<f32>, {{ queries * head_dim // 4 }}>;
var<workgroup> tile: array<vec2<u32>, {{ keys * head_dim // 4 }}>;  // K, then V
var<workgroup> weights: array<f32, {{ queries * keys }}>;

fn half4(v: vec2<u32>) -> vec4<f32> { return vec4<f32>(unpack2x16float(v.x), unpack2x16float(v.y)); }

@compute @workgroup_size({{ queries * lanes }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let h = group.x;
  let t0 = group.y * BQ;
  let n_tokens = batch[{{ io.n_tokens }}u];
  let n_past = batch[{{ io.n_past }}u];
  let cache = (h / {{ n_head // n_head_kv }}u) * {{ n_ctx }}u * D4;
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
  for (var first = 0u; first < last; first += BK) {
    let count = min(BK, last - first);
    workgroupBarrier();
    for (var i = local; i < count * D4; i += WG) { tile[i] = k_cache[cache + first * D4 + i]; }
    workgroupBarrier();
    for (var j = lane; j < BK; j += LANES) {
      var score = -3.4e38;
      if (j < count && first + j <= own) {
        var s = vec4<f32>(0.0);
        for (var i = 0u; i < D4; i++) { s += queries[mine * D4 + i] * half4(tile[j * D4 + i]); }
        score = dot(s, vec4<f32>(1.0));
      }
      weights[mine * BK + j] = score;
    }
    workgroupBarrier();
    for (var i = local; i < count * D4; i += WG) { tile[i] = v_cache[cache + first * D4 + i]; }
    var new_top = top;
    for (var j = 0u; j < BK; j++) { new_top = max(new_top, weights[mine * BK + j]); }
    let fade = exp(top - new_top);
    top = new_top;
    total *= fade;
    for (var p = 0u; p < PARTS; p++) { acc[p] *= fade; }
    workgroupBarrier();
    for (var j = 0u; j < count; j++) {
      if (first + j <= own) {
        let w = exp(weights[mine * BK + j] - new_top);
        total += w;
        for (var p = 0u; p < PARTS; p++) { acc[p] += w * half4(tile[j * D4 + min(lane + p * LANES, D4 - 1u)]); }
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
