// Lane order: how one token's activations lie where a matrix-vector product reads them. A lane takes a block of 32 at a
// time, 8 vec4, and neighbouring lanes take neighbouring blocks; so vec4 j of all blocks lie side by side, and a load of
// all lanes is one stretch of memory.
// Where element `o` of a vector of `n` lies
{% macro element(o, n) %}({{ o }} % 32u / 4u * {{ n // 32 }}u + {{ o }} / 32u) * 4u + {{ o }} % 4u{% endmacro %}
// Writes those of four results that are a head's: its values from `from` on, behind `before` others
{% macro write_part(before, from, four, head_dim, n_head, y_lanes) %}
    let four = {{ four }};
    for (var c = 0u; c < min(4u, {{ head_dim }}u - min({{ from }}, {{ head_dim }}u)); c++) {
      let o = {{ before }} + {{ from }} + c;
      y[{{ element("o", n_head * head_dim) if y_lanes else "o" }}] = four[c];
    }
{% endmacro %}
// Where vec4 `i` of it lies
{% macro vector(i, n) %}{{ i }} % 8u * {{ n // 32 }}u + {{ i }} / 8u{% endmacro %}
