{# What elementwise operations are made of, under ggml's names, and the text of an expression over operands v0, v1, … #}
{% macro of(e) %}
{%- if e is integer %}v{{ e }}
{%- elif e is float %}{{ e }}
{%- else %}op_{{ e[0] }}({% for part in e[1:] %}{{ of(part) }}{{ ", " if not loop.last }}{% endfor %})
{%- endif %}
{%- endmacro %}
{% set glu = ("swiglu", "geglu", "swiglu_oai") %}{# epilogues of products that halve the rows: gate above up #}
{% set functions %}
fn op_add(x: f32, y: f32) -> f32 { return x + y; }
fn op_mul(x: f32, y: f32) -> f32 { return x * y; }
fn op_sigmoid(x: f32) -> f32 { return 1.0 / (1.0 + exp(-x)); }
fn op_tanh(x: f32) -> f32 { return 1.0 - 2.0 / (1.0 + exp(2.0 * x)); }  // WGSL's own overflows on some drivers
fn op_silu(x: f32) -> f32 { return x / (1.0 + exp(-x)); }
fn op_relu_sqr(x: f32) -> f32 { return max(x, 0.0) * max(x, 0.0); }
// 0.5 x (1 + tanh u) is x / (1 + exp(-2 u))
fn op_gelu(x: f32) -> f32 { return x / (1.0 + exp(-1.5957691216057308 * x * (1.0 + 0.044715 * x * x))); }
fn op_swiglu(x: f32, y: f32) -> f32 { return op_silu(x) * y; }
fn op_geglu(x: f32, y: f32) -> f32 { return op_gelu(x) * y; }
fn op_swiglu_oai(x: f32, y: f32) -> f32 {
  let g = min(x, 7.0);
  return g / (1.0 + exp(-1.702 * g)) * (clamp(y, -7.0, 7.0) + 1.0);
}
{% endset %}
