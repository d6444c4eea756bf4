// Mamba 2's recurrence: one workgroup for a head and {{ rows }} rows of its state, of which {{ parts }} invocations share each and hold it in
// registers; it goes through the tokens, {{ chunk }} at a time: first what all rows need of these is made, at last the sums
//   epilogue: what is written, of the result and `gate`
{% import "common/functions.wgsl" as f %}
{% import "common/four.wgsl" as four %}
{% import "common/operand.wgsl" as operand %}
{% include "common/bindings.wgsl" %}
{% set at = dict(operands) %}
{% set workgroup = rows * parts %}
{% set N4 = (d_state + 3) // 4 %}
{% set held = fours * parts %}
var<workgroup> b: array<vec4<f32>, {{ chunk * held }}>;
var<workgroup> c: array<vec4<f32>, {{ chunk * held }}>;
var<workgroup> taken: array<f32, {{ chunk * rows }}>;
var<workgroup> fades: array<f32, {{ chunk }}>;
var<workgroup> sums: array<f32, {{ chunk * workgroup }}>;
{{ f.functions }}
{{ four.declare("xbc", d_state, 4 * held) }}
@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let h = group.x;
  let n_tokens = batch[{{ io.n_tokens }}u];
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
    for (var u = lane; u < count * {{ held }}u; u += {{ workgroup }}u) {
      let begin = {{ n_head * head_dim }}u + h / {{ n_head // n_group }}u * {{ d_state }}u;
      let here = (first + u / {{ held }}u) * {{ at["xbc"].pitch }}u + {{ at["xbc"].first }}u + begin;
      b[u] = four(here, u % {{ held }}u * 4u);
      c[u] = four(here + {{ n_group * d_state }}u, u % {{ held }}u * 4u);
    }
    for (var u = lane; u < count * {{ rows }}u; u += {{ workgroup }}u) {
      let t = first + u / {{ rows }}u;
      let i = h * {{ head_dim }}u + min(first_row + u % {{ rows }}u, {{ head_dim - 1 }}u);
      let raw = {{ operand.number(at["dt"], "h") }} + of_heads[h];
      let step = max(raw, 0.0) + log(1.0 + exp(-abs(raw)));
      taken[u] = step * {{ operand.number(at["xbc"]) }};
      if (u % {{ rows }}u == 0u) { fades[u / {{ rows }}u] = exp(step * of_heads[{{ n_head }}u + h]); }
    }
    workgroupBarrier();
    for (var t = 0u; t < count; t++) {
      let fade = fades[t];
      let x = taken[t * {{ rows }}u + row];
      let here = t * {{ held }}u + part;
      var sum = 0.0;
{% for j in range(fours) %}
      s{{ j }} = s{{ j }} * fade + x * b[here + {{ j * parts }}u];
      sum += dot(s{{ j }}, c[here + {{ j * parts }}u]);
{% endfor %}
      sums[t * {{ workgroup }}u + lane] = sum;
    }
    workgroupBarrier();
    for (var u = lane; u < count * {{ rows }}u; u += {{ workgroup }}u) {
      if (first_row + u % {{ rows }}u >= {{ head_dim }}u) { continue; }
      let t = first + u / {{ rows }}u;
      let i = h * {{ head_dim }}u + first_row + u % {{ rows }}u;
      var v0 = of_heads[{{ 2 * n_head }}u + h] * {{ operand.number(at["xbc"]) }};
      for (var k = 0u; k < {{ parts }}u; k++) { v0 += sums[u * {{ parts }}u + (k + u) % {{ parts }}u]; }  // neighbours read other banks
{% if "gate" in at %}
      let v1 = {{ operand.number(at["gate"]) }};
{% endif %}
      {{ operand.number(at["y"]) }} = {{ f.of(epilogue) }};
    }
  }
{% for j in range(fours) %}
  if (mine{{ " && part < %du" % (N4 - j * parts) if (j + 1) * parts > N4 }}) { state[kept + {{ j * parts }}u] = s{{ j }}; }
{% endfor %}
}
