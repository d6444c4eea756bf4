{# A batch of several texts: where in it the text of a token begins, and one past its last token (`IOLayout.texts`) #}
{% macro declare(texts) %}
fn text_begin(t: u32) -> u32 { return batch[{{ texts[1] }}u + batch[{{ texts[0] }}u + t]]; }
fn text_end(t: u32) -> u32 { return batch[{{ texts[1] + 1 }}u + batch[{{ texts[0] }}u + t]]; }
{% endmacro %}
