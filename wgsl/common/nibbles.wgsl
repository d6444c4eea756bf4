// The 32 nibbles of a block: low ones are weights 0 to 15, high ones 16 to 31
{% macro nibbles() %}
{% for j in range(4) %}
  b.q[{{ j }}] = low4(v.{{ "xyzw"[j] }});
  b.q[{{ j + 4 }}] = high4(v.{{ "xyzw"[j] }});
{% endfor %}
{% endmacro %}
// The same with a fifth bit out of h, one bit a weight
{% macro nibbles5() %}
{% for j in range(4) %}
  b.q[{{ j }}] = bytes_u8((v.{{ "xyzw"[j] }} & 0x0f0f0f0fu) | fifth_bits(h >> {{ 4 * j }}u));
  b.q[{{ j + 4 }}] = bytes_u8(((v.{{ "xyzw"[j] }} >> 4u) & 0x0f0f0f0fu) | fifth_bits(h >> {{ 4 * j + 16 }}u));
{% endfor %}
{% endmacro %}
