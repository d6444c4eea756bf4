{# The factor behind a product's row, where the tensors it is made of have one each. `scaled`: where those of all tensors but
   the last end; none: they have none #}
{% macro of(scaled, row) %}
{% if scaled is not none %}
 * tensor_scales[{% for end in scaled %}u32({{ row }} >= {{ end }}u){{ " + " if not loop.last }}{% else %}0u{% endfor %}]
{%- endif %}
{% endmacro %}
