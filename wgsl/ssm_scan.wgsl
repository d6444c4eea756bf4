// Mamba 2's recurrence: one workgroup for a head and {{ rows }} rows of its state, of which {{ parts }} invocations share each and hold it in
// registers; it goes through the tokens, {{ chunk }} at a time: first what all rows need of these is made, at last the sums. Where
// the tokens are one, nothing waits for memory twice: invocations that have no part of B and C make the rest meanwhile
//   conv: of the convolution that makes xbc of what is there; epilogue: what is written, of the result and `gate`
{% import "common/functions.wgsl" as f %}
{% import "common/four.wgsl" as four %}
{% import "common/operand.wgsl" as operand %}
{% include "common/bindings.wgsl" %}
{% set at = dict(operands) %}
{% set workgroup = rows * parts %}
{% set N4 = (d_state + 3) // 4 %}
{% set held = fours * parts %}
var<workgroup> bc: array<vec4<f32>, {{ chunk * 2 * held }}>;  // of each token B, then C
var<workgroup> taken: array<f32, {{ chunk * rows }}>;
var<workgroup> added: array<f32, {{ chunk * rows }}>;  // d x
{% if "gate" in at %}
var<workgroup> gates: array<f32, {{ chunk * rows }}>;
{% endif %}
var<workgroup> fades: array<f32, {{ chunk }}>;
var<workgroup> sums: array<f32, {{ chunk * workgroup }}>;
{{ f.functions }}
{% set x = at["xbc"] %}
{% include "common/conv.wgsl" %}
{{ four.declare(d_state, 4 * held) }}
@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let h = group.x;
  let n_tokens = {{ "batch[%du]" % io.n_tokens if several else "1u" }};
  let begins = batch[{{ io.n_past }}u] == 0u;
  let first_row = group.y * {{ rows }}u;
  let row = lane / {{ parts }}u;
  let part = lane % {{ parts }}u;
  let mine = first_row + row < {{ head_dim }}u;
  let kept = (h * {{ head_dim }}u + first_row + row) * {{ N4 }}u + part;
{% for j in range(fours) %}
  var s{{ j }} = vec4<f32>();
  if (mine && !begins{{ " && part < %du" % (N4 - j * parts) if (j + 1) * parts > N4 }}) { s{{ j }} = state[kept + {{ j * parts }}u]; }
{% endfor %}
  for (var first = 0u; first < n_tokens; first += {{ chunk }}u) {
    let count = min({{ chunk }}u, n_tokens - first);
    for (var u = lane; u < count * {{ 2 * held }}u; u += {{ workgroup }}u) {
      let t = first + u / {{ 2 * held }}u;
      let group_of_heads = u / {{ held }}u % 2u * {{ n_group }}u + h / {{ n_head // n_group }}u;
      let at = {{ n_head * head_dim }}u + group_of_heads * {{ d_state }}u;
      let i = u % {{ held }}u * 4u;
      bc[u] = four(t, at, i);
{% if conv %}
      if (h % {{ n_head // n_group }}u == 0u && group.y == 0u) {
        for (var n = i; n < min(i + 4u, {{ d_state }}u); n++) { keep(t, at + n); }
      }
{% endif %}
    }
    for (var u = {{ workgroup - 1 }}u - lane; u < count * {{ rows }}u; u += {{ workgroup }}u) {
      let t = first + u / {{ rows }}u;
      let i = h * {{ head_dim }}u + min(first_row + u % {{ rows }}u, {{ head_dim - 1 }}u);
      let raw = {{ operand.number(at["dt"], "h") }} + of_heads[h];
      let step = max(raw, 0.0) + log(1.0 + exp(-abs(raw)));
      let x = number(t, i);
      taken[u] = step * x;
      added[u] = of_heads[{{ 2 * n_head }}u + h] * x;
{% if "gate" in at %}
      gates[u] = {{ operand.number(at["gate"]) }};
{% endif %}
{% if conv %}
      if (first_row + u % {{ rows }}u < {{ head_dim }}u) { keep(t, i); }
{% endif %}
      if (u % {{ rows }}u == 0u) { fades[u / {{ rows }}u] = exp(step * of_heads[{{ n_head }}u + h]); }
    }
    workgroupBarrier();
    for (var t = 0u; t < count; t++) {
      let fade = fades[t];
      let x = taken[t * {{ rows }}u + row];
      let here = t * {{ 2 * held }}u + part;
      var sum = 0.0;
{% for j in range(fours) %}
      s{{ j }} = s{{ j }} * fade + x * bc[here + {{ j * parts }}u];
      sum += dot(s{{ j }}, bc[here + {{ held + j * parts }}u]);
{% endfor %}
      sums[t * {{ workgroup }}u + lane] = sum;
    }
    workgroupBarrier();
    for (var u = {{ workgroup - 1 }}u - lane; u < count * {{ rows }}u; u += {{ workgroup }}u) {  // whoever has left `added` there
      if (first_row + u % {{ rows }}u >= {{ head_dim }}u) { continue; }
      let t = first + u / {{ rows }}u;
      let i = h * {{ head_dim }}u + first_row + u % {{ rows }}u;
      var v0 = added[u];
      for (var k = 0u; k < {{ parts }}u; k++) { v0 += sums[u * {{ parts }}u + (k + u) % {{ parts }}u]; }  // neighbours read other banks
{% if "gate" in at %}
      let v1 = gates[u];
{% endif %}
      {{ operand.number(at["y"]) }} = {{ f.of(epilogue) }};
    }
  }
{% for j in range(fours) %}
  if (mine{{ " && part < %du" % (N4 - j * parts) if (j + 1) * parts > N4 }}) { state[kept + {{ j * parts }}u] = s{{ j }}; }
{% endfor %}
}
