// The gated delta rule: one workgroup for a head and {{ columns }} columns of its matrix, of which {{ parts }} invocations share each and hold it
// in registers; it goes through the tokens, {{ chunk }} at a time: first what all columns need of these is made, at last the sums
//   conv: of the convolution that makes qkv of what is there
{% import "common/four.wgsl" as four %}
{% import "common/functions.wgsl" as f %}
{% import "common/operand.wgsl" as operand %}
{% include "common/bindings.wgsl" %}
{% set at = dict(operands) %}
{% set workgroup = columns * parts %}
{% set S4 = (size + 3) // 4 %}
{% set held = fours * parts %}
var<workgroup> qk: array<vec4<f32>, {{ chunk * 2 * held }}>;  // of each token the query, then the key, both of any length
var<workgroup> squares: array<f32, {{ chunk * 2 * held }}>;
var<workgroup> value: array<f32, {{ chunk * columns }}>;
var<workgroup> trusts: array<vec2<f32>, {{ chunk }}>;  // fade and trust
var<workgroup> scales: array<vec2<f32>, {{ chunk }}>;  // what makes key and query as long as they are to be
var<workgroup> told: array<f32, {{ 2 * workgroup }}>;  // of a token, and of the next
var<workgroup> sums: array<f32, {{ chunk * workgroup }}>;
{% if conv %}
{{ f.functions }}
{% endif %}
{% set x = at["qkv"] %}
{% include "common/conv.wgsl" %}
{{ four.declare(size, 4 * held) }}
@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let h = group.x;
  let pair = {{ "h / %du" % (n_head // n_key) if grouped else "h %% %du" % n_key }};
  let n_tokens = {{ "batch[%du]" % io.n_tokens if several else "1u" }};
  let begins = batch[{{ io.n_past }}u] == 0u;
  let first_column = group.y * {{ columns }}u;
  let column = lane / {{ parts }}u;
  let part = lane % {{ parts }}u;
  let mine = first_column + column < {{ size }}u;
  let kept = (h * {{ size }}u + first_column + column) * {{ S4 }}u + part;
{% for j in range(fours) %}
  var s{{ j }} = vec4<f32>();
  if (mine && !begins{{ " && part < %du" % (S4 - j * parts) if (j + 1) * parts > S4 }}) { s{{ j }} = state[kept + {{ j * parts }}u]; }
{% endfor %}
  for (var first = 0u; first < n_tokens; first += {{ chunk }}u) {
    let count = min({{ chunk }}u, n_tokens - first);
    for (var u = lane; u < count * {{ 2 * held }}u; u += {{ workgroup }}u) {
      let t = first + u / {{ 2 * held }}u;
      let at = (u / {{ held }}u % 2u * {{ n_key }}u + pair) * {{ size }}u;
      let i = u % {{ held }}u * 4u;
      let numbers = four(t, at, i);
      qk[u] = numbers;
      squares[u] = dot(numbers, numbers);
{% if conv %}
      if ({{ "h %% %du == 0u" % (n_head // n_key) if grouped else "h < %du" % n_key }} && group.y == 0u) {
        for (var n = i; n < min(i + 4u, {{ size }}u); n++) { keep(t, at + n); }
      }
{% endif %}
    }
    for (var u = lane; u < count * {{ columns }}u; u += {{ workgroup }}u) {
      let t = first + u / {{ columns }}u;
      let i = {{ 2 * n_key * size }}u + h * {{ size }}u + min(first_column + u % {{ columns }}u, {{ size - 1 }}u);
      value[u] = number(t, i);
{% if conv %}
      if (first_column + u % {{ columns }}u < {{ size }}u) { keep(t, i); }
{% endif %}
    }
    if (lane < count) {
      let t = first + lane;
      let raw = {{ operand.number(at["alpha"], "h") }} + of_heads[h];
      let fade = exp(of_heads[{{ n_head }}u + h] * (max(raw, 0.0) + log(1.0 + exp(-abs(raw)))));
      trusts[lane] = vec2<f32>(fade, 1.0 / (1.0 + exp(-{{ operand.number(at["beta"], "h") }})));
    }
    workgroupBarrier();
    if (lane < count) {
      var square = vec2<f32>({{ eps }});
      for (var k = 0u; k < {{ held }}u; k++) {
        let here = lane * {{ 2 * held }}u + (k + lane) % {{ held }}u;  // neighbours read other banks
        square += vec2<f32>(squares[here], squares[here + {{ held }}u]);
      }
      scales[lane] = vec2<f32>(inverseSqrt(square.y), inverseSqrt(square.x) * {{ size ** -0.5 }});
    }
    workgroupBarrier();
    for (var t = 0u; t < count; t++) {
      let trust = trusts[t];
      let scale = scales[t].x;
      let here = t * {{ 2 * held }}u + part;
      let of_token = t % 2u * {{ workgroup }}u;
{% for j in range(fours) %}
      let k{{ j }} = qk[here + {{ held + j * parts }}u];
{% endfor %}
      told[of_token + lane] = {% for j in range(fours) %}dot(s{{ j }}, k{{ j }}){{ " + " if not loop.last }}{% endfor %};
      workgroupBarrier();
      var sum = 0.0;
      for (var k = 0u; k < {{ parts }}u; k++) { sum += told[of_token + column * {{ parts }}u + k]; }
      let delta = trust.y * (value[t * {{ columns }}u + column] - trust.x * scale * sum);
      var found = 0.0;
{% for j in range(fours) %}
      s{{ j }} = s{{ j }} * trust.x + delta * scale * k{{ j }};
      found += dot(s{{ j }}, qk[here + {{ j * parts }}u]);
{% endfor %}
      sums[t * {{ workgroup }}u + lane] = found;
    }
    workgroupBarrier();
    for (var u = lane; u < count * {{ columns }}u; u += {{ workgroup }}u) {
      if (first_column + u % {{ columns }}u >= {{ size }}u) { continue; }
      let t = first + u / {{ columns }}u;
      let i = h * {{ size }}u + first_column + u % {{ columns }}u;
      var sum = 0.0;
      for (var k = 0u; k < {{ parts }}u; k++) { sum += sums[u * {{ parts }}u + (k + u) % {{ parts }}u]; }
      {{ operand.number(at["y"]) }} = sum * scales[u / {{ columns }}u].y;
    }
  }
{% for j in range(fours) %}
  if (mine{{ " && part < %du" % (S4 - j * parts) if (j + 1) * parts > S4 }}) { state[kept + {{ j * parts }}u] = s{{ j }}; }
{% endfor %}
}
