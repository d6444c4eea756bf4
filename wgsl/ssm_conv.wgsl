// A causal convolution of {{ taps }} taps along the tokens: an invocation goes through {{ run }} tokens of a channel with the last inputs
// in registers; that of the first ones leaves the batch's last inputs in `state`, where that at position p is row p % {{ taps }}
//   prologue: what an input is, of x and x1; epilogue: what is written, of the result and `gate`
{% import "common/functions.wgsl" as f %}
{% import "common/operand.wgsl" as operand %}
{% include "common/bindings.wgsl" %}
{% set at = dict(operands) %}
{% set kept = taps - 1 %}
{{ f.functions }}
fn number(t: u32, i: u32) -> f32 {
  let v0 = {{ operand.number(at["x"]) }};
{% if "x1" in at %}
  let v1 = {{ operand.number(at["x1"]) }};
{% endif %}
  return {{ f.of(prologue) }};
}

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.x;
  let first = id.y * {{ run }}u;
  let n_tokens = batch[{{ io.n_tokens }}u];
  if (i >= {{ channels }}u || first >= n_tokens) { return; }
  let n_past = batch[{{ io.n_past }}u];
{% for j in range(taps) %}
  let w{{ j }} = taps[i * {{ taps }}u + {{ j }}u];
{% endfor %}
{% for j in range(kept) %}
  var x{{ j }} = 0.0;
{% endfor %}
{% for j in range(kept) %}
{% set back = kept - j %}
  if (first > 0u) { x{{ j }} = number(first - {{ back }}u, i); }
  else if (n_past >= {{ back }}u) { x{{ j }} = state[(n_past - {{ back }}u) % {{ taps }}u * {{ channels }}u + i]; }
{% endfor %}
  if (first == 0u) {
    for (var t = max(n_tokens, {{ kept }}u) - {{ kept }}u; t < n_tokens; t++) {
      state[(n_past + t) % {{ taps }}u * {{ channels }}u + i] = number(t, i);
    }
  }
  for (var t = first; t < min(first + {{ run }}u, n_tokens); t++) {
    let x{{ kept }} = number(t, i);
    let v0 = {% for j in range(taps) %}w{{ j }} * x{{ j }}{{ " + " if not loop.last }}{% endfor %}{{ " + shift[i]" if bias }};
{% if "gate" in at %}
    let v1 = {{ operand.number(at["gate"]) }};
{% endif %}
    {{ operand.number(at["y"]) }} = {{ f.of(epilogue) }};
{% for j in range(kept) %}
    x{{ j }} = x{{ j + 1 }};
{% endfor %}
  }
}
