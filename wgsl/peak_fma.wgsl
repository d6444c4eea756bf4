// The device's float32 arithmetic: {{ chains }} independent chains of fused multiply-adds on vec4 in each invocation{{ ";" if barriers else "." }}
{% if barriers %}
// behind each step of them the invocations of a workgroup meet and exchange a number.
{% endif %}
{% include "common/bindings.wgsl" %}
{% if barriers %}
var<workgroup> met: array<f32, {{ workgroup }}>;
{% endif %}

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let scale = vec4<f32>(0.999 + f32(id.x & 7u) * 1e-6);
{% for i in range(chains) %}
  var v{{ i }} = vec4<f32>(f32(id.x) + {{ i }}.0);
{% endfor %}
  for (var n = 0u; n < {{ steps }}u; n++) {
{% for i in range(chains) %}
    v{{ i }} = fma(v{{ i }}, scale, vec4<f32>(1e-3));
{% endfor %}
{% if barriers %}
    met[lane] = v0.x;
    workgroupBarrier();
    v0.x = met[lane ^ 85u];
    workgroupBarrier();
{% endif %}
  }
  let sum = {% for i in range(chains) %}v{{ i }}{{ " + " if not loop.last }}{% endfor %};
  if (sum.x + sum.y + sum.z + sum.w == 12345.678) { y[0] = 1u; }
}
