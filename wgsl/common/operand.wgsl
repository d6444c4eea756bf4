{% import "common/lanes.wgsl" as order %}
{# Number `i` of token t of an operand #}
{% macro number(o, i="i") %}
{%- set i = "(%s %% %du)" % (i, o.repeats) if o.repeats else i %}
{%- set i = "%s / %du * %du + %s %% %du" % (i, o.each, o.apart, i, o.each) if o.each else i %}
{%- set at = "(%s + %du)" % (i, o.first) if o.first else "(%s)" % i %}
{{- o.slot }}[{{ "t * %du + " % o.pitch if o.pitch }}{{ order.element(at, o.lanes) if o.lanes else at }}]
{%- endmacro %}
