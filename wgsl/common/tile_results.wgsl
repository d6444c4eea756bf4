{# An invocation's results: acc[0], … for tokens id.y + wy * i and rows id.x + wx * j of the tile #}
{% macro results() %}
{% set tm = tile_m // wy %}
{% set tn = tile_n // wx %}
{% for i in range(tm) %}
{% call product.of_row("id.y + %du" % (wy * i)) %}
{% for j in range(tn // 2 if product.glu else tn) %}
      {
        let o = o0 + id.x + {{ wx * j }}u;
{{ product.store("acc[%d]" % (i * tn + j), "acc[%d]" % (i * tn + j + tn // 2)) }}      }
{% endfor %}
{% endcall %}
{% endfor %}
{{ product.close() }}{% endmacro %}
