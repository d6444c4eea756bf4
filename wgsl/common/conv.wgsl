{# `number(t, i)`: number i of token t of what a recurrence reads at x. With `conv` that is what a convolution makes of it,
of one token, whose inputs at earlier positions are in `conv_state`; `keep(i)` leaves this one there, in a row that nothing reads #}
{% if conv %}
fn number(t: u32, i: u32) -> f32 {
  let n_past = batch[{{ io.n_past }}u];
  var v0 = {{ "shift[i]" if conv.bias else "0.0" }};
{% for j in range(conv.taps - 1) %}
{% set back = conv.taps - 1 - j %}
  v0 += select(0.0, taps[i * {{ conv.taps }}u + {{ j }}u] * conv_state[(n_past - {{ back }}u) % {{ conv.taps }}u * {{ conv.channels }}u + i], n_past >= {{ back }}u);
{% endfor %}
  v0 += taps[i * {{ conv.taps }}u + {{ conv.taps - 1 }}u] * {{ operand.number(x) }};
  return {{ f.of(conv.epilogue) }};
}
fn keep(t: u32, i: u32) { conv_state[batch[{{ io.n_past }}u] % {{ conv.taps }}u * {{ conv.channels }}u + i] = {{ operand.number(x) }}; }
{% else %}
fn number(t: u32, i: u32) -> f32 { return {{ operand.number(x) }}; }
{% endif %}
