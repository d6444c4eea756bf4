// The next token out of the logits, in one workgroup: greedy at temperature 0, else top-k, top-p and min-p as thresholds
// on the logit, then a draw by the Gumbel trick: the largest of logit / temperature + noise, where the noise is a hash of
// (seed, step, token). No sorting, and a seed gives the same text again. Writes the token and advances the position. Where
// a logit is NaN or infinite, or all are -infinity (one may be), the token is NO_TOKEN.
{% include "common/bindings.wgsl" %}
const NO_TOKEN = 0xffffffffu;
const WG = {{ workgroup }}u;
const N = {{ n }}u;
var<workgroup> best: array<f32, {{ workgroup }}>;
var<workgroup> at: array<u32, {{ workgroup }}>;
var<workgroup> histogram: array<atomic<u32>, 256>;
var<workgroup> digit: u32;
var<workgroup> left: u32;
var<workgroup> top_k_shared: u32;
var<workgroup> chain: vec3<f32>;  // temperature, top_p, min_p

// Goes over all logits, each as `v` of token `i`: eight loads at once, since one workgroup has little else to wait with
{% macro over_logits() %}
  for (var base = lane; base < N; base += 8u * WG) {
{% for k in range(8) %}
    let v{{ k }} = logits[min(base + {{ k }}u * WG, N - 1u)];
{% endfor %}
{% for k in range(8) %}
    if (base + {{ k }}u * WG < N) {
      let i = base + {{ k }}u * WG;
      let v = v{{ k }};
{{ caller() }}
    }
{% endfor %}
  }
{% endmacro %}

// A u32 that orders as the float does
fn key_of(v: f32) -> u32 {
  let u = bitcast<u32>(v);
  return select(u | 0x80000000u, ~u, (u & 0x80000000u) != 0u);
}

// PCG hash (Jarzynski and Olano, "Hash Functions for GPU Rendering")
fn hash(v: u32) -> u32 {
  let state = v * 747796405u + 2891336453u;
  let word = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
  return (word >> 22u) ^ word;
}

// -log of an exponentially distributed number, -log(1 - v) with v uniform in (0, 1). What wins has a small v, where v
// has its finest steps and 1 - v none; and WebGPU lets log be 2^-21 off near 1, which would let a random token win.
fn gumbel(token: u32) -> f32 {
  let h = hash(token ^ hash(batch[{{ io.step }}u] ^ hash(batch[{{ io.seed }}u])));
  let v = (f32(h) + 0.5) * 2.3283064365386963e-10;
  return -log(select(-log(max(1.0 - v, 1e-9)), v * (1.0 + 0.5 * v), v < 0.001));
}

// Leaves the largest of the lanes' values in best[0], and its token in at[0]; the lower token wins a tie
fn arg_max(lane: u32, value: f32, token: u32) {
  best[lane] = value;
  at[lane] = token;
  for (var half = WG / 2u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (lane < half) {
      let o = lane + half;
      if (best[o] > best[lane] || (best[o] == best[lane] && at[o] < at[lane])) { best[lane] = best[o]; at[lane] = at[o]; }
    }
  }
  workgroupBarrier();
}

fn sum_of(lane: u32, value: f32) -> f32 {
  best[lane] = value;
  for (var half = WG / 2u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (lane < half) { best[lane] += best[lane + half]; }
  }
  workgroupBarrier();
  let total = best[0];
  workgroupBarrier();
  return total;
}

// The largest key such that the tokens at or above it weigh at least `wanted` together; only tokens from `floor_key` up
// count. A token weighs 1 (scale 0), or its probability times `scale`. Four rounds of a radix select, 8 bits each.
fn threshold(lane: u32, wanted: u32, floor_key: u32, top: f32, scale: f32) -> u32 {
  var prefix = 0u;
  if (lane == 0u) { left = wanted; }
  for (var shift = 24u; ; shift -= 8u) {
    for (var i = lane; i < 256u; i += WG) { atomicStore(&histogram[i], 0u); }
    workgroupBarrier();
{% call over_logits() %}
      let key = key_of(v);
      if (key >= floor_key && (shift == 24u || (key >> (shift + 8u)) == (prefix >> (shift + 8u)))) {
        atomicAdd(&histogram[(key >> shift) & 255u], select(1u, u32(exp(v - top) * scale), scale > 0.0));
      }
{% endcall %}
    workgroupBarrier();
    if (lane == 0u) {
      var d = 255u;
      loop {
        let weight = atomicLoad(&histogram[d]);
        if (weight >= left || d == 0u) { break; }
        left -= weight;
        d -= 1u;
      }
      digit = d;
    }
    workgroupBarrier();
    prefix |= digit << shift;
    if (shift == 0u) { break; }
  }
  workgroupBarrier();
  return max(prefix, floor_key);
}

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(local_invocation_index) lane: u32) {
  var top = -3.4e38;
  var token = NO_TOKEN;
  var most = 0u;  // the largest without its sign, as bits: those of NaN are above infinity's
{% call over_logits() %}
      if (v > top) { top = v; token = i; }
      most = max(most, bitcast<u32>(v) & 0x7fffffffu);
{% endcall %}
  if (most > 0x7f800000u || bitcast<u32>(top) == 0x7f800000u) {
    top = 3.4028234e38;  // above what the other lanes found
    token = NO_TOKEN;
  }
  arg_max(lane, top, token);
  top = workgroupUniformLoad(&best[0]);
  token = workgroupUniformLoad(&at[0]);
  // Through workgroup memory, so that the compiler sees that these are uniform: barriers depend on them
  if (lane == 0u) {
    top_k_shared = batch[{{ io.top_k }}u];
    chain = vec3<f32>(bitcast<f32>(batch[{{ io.temperature }}u]), bitcast<f32>(batch[{{ io.top_p }}u]),
                      bitcast<f32>(batch[{{ io.min_p }}u]));
  }
  let top_k = workgroupUniformLoad(&top_k_shared);
  let parameters = workgroupUniformLoad(&chain);
  let temperature = parameters.x;
  let top_p = parameters.y;
  let min_p = parameters.z;
  if (temperature > 0.0 && token != NO_TOKEN) {
    var floor_key = 0u;
    if (top_k > 0u && top_k < N) { floor_key = threshold(lane, top_k, 0u, top, 0.0); }
    if (top_p < 1.0) {
      var sum = 0.0;
{% call over_logits() %}
        if (key_of(v) >= floor_key) { sum += exp(v - top); }
{% endcall %}
      let scale = 2147483648.0 / sum_of(lane, sum);
      floor_key = threshold(lane, max(u32(top_p * 2147483648.0), 1u), floor_key, top, scale);
    }
    var min_logit = -3.4e38;
    if (min_p > 0.0) { min_logit = top + log(min_p); }
    var best_value = -3.4e38;
    var best_token = token;
{% call over_logits() %}
      if (key_of(v) >= floor_key && v >= min_logit) {
        let value = (v - top) / temperature + gumbel(i);
        if (value > best_value) { best_value = value; best_token = i; }
      }
{% endcall %}
    arg_max(lane, best_value, best_token);
    token = workgroupUniformLoad(&at[0]);
  }
  if (lane == 0u) {
    batch[{{ io.n_past }}u] += batch[{{ io.n_tokens }}u];
    batch[{{ io.n_tokens }}u] = 1u;
    batch[{{ io.step }}u] += 1u;
    batch[{{ io.tokens }}u] = token;
  }
}
