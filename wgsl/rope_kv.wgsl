// For each token and head of qkv: norms and rotates q in place, where it is asked for, writes k, normed and rotated, and v
// to the layer's cache{{ ", as far as it is not in k" if not type_v }}. One workgroup a token and head; heads in the order q, k, v, of those whose cache is bound.
{% import "common/cache.wgsl" as cache %}
{% import "cache/" ~ type_k ~ ".wgsl" as k %}
{% if type_v %}
{% import "cache/" ~ type_v ~ ".wgsl" as v %}
{% endif %}
{% include "common/bindings.wgsl" %}
{% if mode %}
{% include "common/rope.wgsl" %}
{% endif %}
const D = {{ head_dim }}u;
const DV = {{ head_dim_v }}u;
var<workgroup> head: array<f32, {{ [width, width_v] | max }}>;  // zeros behind the head's values
{% if head_eps is not none or v_eps is not none %}
var<workgroup> partial: array<f32, {{ workgroup }}>;
{% endif %}
{{ cache.helpers(ring) }}
{{ k.store("k", width, k_unit, k_scales, true) }}
{% if type_v %}
{{ v.store("v", width_v, v_unit, v_scales, true) }}
{% endif %}

{# Norms the head, if there is a norm; of `size` numbers, times `weight` #}
{% macro normed(eps=head_eps, size=head_dim, weight=" * head_norm[i + select(0u, D, h >= %du)]" % n_head) %}
{% if eps is not none %}
    var square = 0.0;
    for (var i = lane; i < {{ size }}u; i += {{ workgroup }}u) { square += head[i] * head[i]; }
    partial[lane] = square;
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < {{ workgroup }}u; i++) { sum += partial[i]; }
    let norm = inverseSqrt(sum / {{ size }}.0 + {{ eps }});
    for (var i = lane; i < {{ size }}u; i += {{ workgroup }}u) { head[i] *= norm{{ weight }}; }
    workgroupBarrier();
{% endif %}
{% endmacro %}
@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let t = group.y;
{% if kv_heads == n_head_kv %}
  let h = group.x;
{% else %}
{% set queries = kv_heads * (n_head // n_head_kv) %}
  var h = group.x + {{ first_kv * (n_head // n_head_kv) }}u;
  if (group.x >= {{ queries + kv_heads }}u) {
    h = group.x - {{ queries + kv_heads }}u + {{ n_head + n_head_kv + first_kv }}u;
  } else if (group.x >= {{ queries }}u) {
    h = group.x - {{ queries }}u + {{ n_head + first_kv }}u;
  }
{% endif %}
  let position = batch[{{ io.n_past }}u] + t;
  let size = select(D, DV, h >= {{ n_head + n_head_kv }}u);
  let base = t * {{ qkv_row }}u + min(h, {{ n_head + n_head_kv }}u) * D + (max(h, {{ n_head + n_head_kv }}u) - {{ n_head + n_head_kv }}u) * DV;
  for (var i = lane; i < size; i += {{ workgroup }}u) { head[i] = qkv[base + i]; }
{% if width > head_dim or width_v > head_dim_v %}
  if (lane < 7u - (size - 1u) % 8u) { head[size + lane] = 0.0; }  // not every driver has zeros there
{% endif %}
  workgroupBarrier();
  if (h < {{ n_head + n_head_kv }}u) {
{% if not norm_behind %}
{{ normed() }}{% endif %}
{% if mode %}
    for (var i = lane; i < {{ n_dims // 2 }}u; i += {{ workgroup }}u) {
      let p = rope_pair(i);
      let r = rotate(vec2<f32>(head[p.x], head[p.y]), rope_turn(position, i));
      head[p.x] = r.x;
      head[p.y] = r.y;
    }
{% endif %}
{% if norm_behind %}
    workgroupBarrier();
{{ normed() }}{% endif %}
{% if v_eps is not none %}
  } else {
{{ normed(v_eps, head_dim_v, "") }}{% endif %}
  }
  workgroupBarrier();
  if (h < {{ n_head }}u) {
    for (var i = lane; i < D; i += {{ workgroup }}u) { qkv[base + i] = head[i]; }
  } else {{ "if (h < %du) " % (n_head + n_head_kv) if type_v }}{
    let row = (h - {{ n_head + first_kv }}u) * {{ n_ctx }}u + cache_row(position);
    for (var i = lane; i < {{ width // k_unit }}u; i += {{ workgroup }}u) {
      let scales = k_put(row, i, i * {{ k_unit }}u, true);
{% if k_unit > 8 %}
      k_scales(row, i, scales);
{% endif %}
    }
{% if type_v %}
  } else {
    let row = (h - {{ n_head + n_head_kv + first_kv }}u) * {{ n_ctx }}u + cache_row(position);
    for (var i = lane; i < {{ width_v // v_unit }}u; i += {{ workgroup }}u) {
      let scales = v_put(row, i, i * {{ v_unit }}u, true);
{% if v_unit > 8 %}
      v_scales(row, i, scales);
{% endif %}
    }
{% endif %}
  }
}
