{# What becomes of scores in attention, if the model asks for it: a temperature that grows with the position of the query,
   and a cap, for scores in `unit` (1, or log2(e) where exp2 is taken of them) #}
{% macro declare(softcap, temperature, unit) %}
{% if softcap %}
fn capped(score: f32) -> f32 { return {{ softcap * unit }} * (1.0 - 2.0 / (1.0 + exp(score * {{ 2.0 / (softcap * unit) }}))); }
{% endif %}
{% if temperature %}
fn warmth(position: u32) -> f32 { return 1.0 + {{ temperature[0] }} * log(f32(position / {{ temperature[1] }}u) + 1.0); }
{% endif %}
{% endmacro %}
{% macro warm(temperature, position) %}{{ " * warmth(%s)" % position if temperature }}{% endmacro %}
{% macro cap(softcap, score) %}{{ "capped(%s)" % score if softcap else score }}{% endmacro %}
