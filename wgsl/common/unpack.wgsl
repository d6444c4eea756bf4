// Numbers of 4, 2 and 1 bits out of the orders of the planes (kernels/formats.py), as expressions for the four weights
// 4 j to 4 j + 3 in the bytes of a word, `to` bits up.
{% macro shifted(v, by) %}({{ v }}{{ " << " ~ by ~ "u" if by > 0 else " >> " ~ -by ~ "u" if by < 0 }}){% endmacro %}
{% macro nibbles(v, j) %}({{ shifted(v ~ "." ~ "xyzw"[j % 4], -4 if j >= 4 else 0) }} & 0x0f0f0f0fu){% endmacro %}
{% macro crumbs(v, j, to=0) %}({{ shifted(v ~ "." ~ "xy"[j // 4], to - 2 * (j % 4)) }} & {{ "0x%08xu" % (0x03030303 * 2**to) }}){% endmacro %}
{% macro bits(v, j, to) %}({{ shifted(v, to - j) }} & {{ "0x%08xu" % (0x01010101 * 2**to) }}){% endmacro %}
