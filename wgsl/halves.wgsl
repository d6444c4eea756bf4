// The rows of x as f16 for matrix units, a workgroup for each, with a scale of the row, x = scale * half: a power of two that
// leaves the largest near 2^13, so that what is large does not overflow and what is small is no subnormal. Words of two, [token][column],
// and behind them the scales, [token].
{% import "common/row_end.wgsl" as end %}
{% include "common/bindings.wgsl" %}
{{ end.declare(columns, k) }}const N4 = {{ k // 4 }}u;
const WG = {{ workgroup }}u;
const SCALES = {{ n_tokens * k // 2 }}u;

var<workgroup> largest: array<f32, {{ workgroup }}>;

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let t = group.y;
  if (t >= batch[{{ io.n_tokens }}u]) { return; }
  var top = vec4<f32>(0.0);
  for (var i = local; i < N4; i += WG) { top = max(top, abs({{ end.read(columns, k, "x[t * N4 + i]", "i") }})); }
  largest[local] = max(max(top.x, top.y), max(top.z, top.w));
  for (var half = WG / 2u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (local < half) { largest[local] = max(largest[local], largest[local + half]); }
  }
  workgroupBarrier();
  let exponent = clamp(bitcast<u32>(largest[0]) >> 23u, 14u, 254u);
  let inverse = bitcast<f32>((267u - exponent) << 23u);
  for (var i = local; i < N4; i += WG) {
    let v = {{ end.read(columns, k, "x[t * N4 + i]", "i") }} * inverse;
    y[2u * (t * N4 + i)] = pack2x16float(v.xy);
    y[2u * (t * N4 + i) + 1u] = pack2x16float(v.zw);
  }
  if (local == 0u) { y[SCALES + t] = bitcast<u32>((exponent - 13u) << 23u); }
}
