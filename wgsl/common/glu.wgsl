{# Gated linear units: what becomes of gate `v`, before it is multiplied with up. For geglu, 0.5 v (1 + tanh u) is
   v / (1 + exp(-2 u)). #}
{% set names = ("swiglu", "geglu") %}
{% macro activated(glu, v) %}
{% if glu == "swiglu" %}{{ v }} / (1.0 + exp(-{{ v }})){% else %}{{ v }} / (1.0 + exp(-1.5957691216057308 * {{ v }} * (1.0 + 0.044715 * {{ v }} * {{ v }}))){% endif %}
{% endmacro %}
