{# Activations as the packed dot takes them, in workgroup memory: integers of 16 bits, a scale for each 32 of them, as two planes
   of bytes, x = d * (256 * high + low). `chunk`: blocks that there is room for #}
{% macro declare(chunk, split) %}
// [a quarter of the block's bytes][block]: first the high bytes, then the low ones
var<workgroup> quarters: array<vec4<u32>, {{ 4 * chunk }}>;
var<workgroup> scales: array<vec{{ 3 if split else 2 }}<f32>, {{ chunk }}>;  // d, and sums of d * x over the block {{ "or its halves" if split }}
{% endmacro %}
{# Leaves activations a0 to a7 there, as block i #}
{% macro put(chunk, split) %}
      var top = abs(a0);
{% for j in range(1, 8) %}
      top = max(top, abs(a{{ j }}));
{% endfor %}
      let largest = max(max(top.x, top.y), max(top.z, top.w));
      let d = largest / 32512.0;
      let inverse = select(0.0, 32512.0 / largest, largest > 0.0);
{% for j in range(8) %}
      let q{{ j }} = vec4<i32>(round(a{{ j }} * inverse));
      let h{{ j }} = (q{{ j }} + 128) >> vec4<u32>(8u);
{% endfor %}
{% for part in range(2) %}
      quarters[{{ part * chunk }}u + i] = vec4<u32>({% for j in range(4) %}pack4xI8(h{{ 4 * part + j }}){{ ", " if not loop.last }}{% endfor %});
      quarters[{{ (2 + part) * chunk }}u + i] = vec4<u32>({% for j in range(4) %}pack4xI8(q{{ 4 * part + j }}){{ ", " if not loop.last }}{% endfor %});
{% endfor %}
      let s0 = q0 + q1 + q2 + q3;
      let s1 = q4 + q5 + q6 + q7;
{% if split %}
      scales[i] = vec3<f32>(d, d * f32(s0.x + s0.y + s0.z + s0.w), d * f32(s1.x + s1.y + s1.z + s1.w));
{% else %}
      let s = s0 + s1;
      scales[i] = vec2<f32>(d, d * f32(s.x + s.y + s.z + s.w));
{% endif %}
{% endmacro %}
{# Block `at` of them, as c0 to c3 and `scale` #}
{% macro get(chunk, at) %}
{% for part in range(4) %}
        let c{{ part }} = quarters[{{ part * chunk }}u + {{ at }}];
{% endfor %}
        let scale = scales[{{ at }}];
{% endmacro %}
{% macro half(w, part) %}
(({% for j in range(4) %}dot4I8Packed({{ w }}.q[{{ 4 * part + j }}], c{{ part }}.{{ "xyzw"[j] }}){{ " + " if not loop.last }}{% endfor %}) << 8u)
          + {% for j in range(4) %}dot4I8Packed({{ w }}.q[{{ 4 * part + j }}], c{{ 2 + part }}.{{ "xyzw"[j] }}){{ " + " if not loop.last }}{% endfor %}
{% endmacro %}
{# Adds the product of 32 weights, `w`, and that block to acc[i]; `share`: of it #}
{% macro add(i, w, split, share="") %}
        {
          let p0 = {{ half(w, 0) }};
          let p1 = {{ half(w, 1) }};
{% if split %}
          acc[{{ i }}] += {{ share }}(scale.x * dot({{ w }}.d, vec2<f32>(vec2<i32>(p0, p1))) + dot({{ w }}.m, scale.yz));
{% else %}
          acc[{{ i }}] += {{ share }}({{ w }}.d * scale.x * f32(p0 + p1) + {{ w }}.m * scale.y);
{% endif %}
        }
{% endmacro %}
