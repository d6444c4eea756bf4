{# Activations as the packed dot takes them, in workgroup memory: integers of 16 bits, a scale for each 32 of them, as two planes
   of bytes, x = d * (256 * high + low). `chunk`: blocks that there is room for #}
{% macro declare(chunk, split) %}
// [a quarter of the block's bytes][block]: first the high bytes, then the low ones
var<workgroup> quarters: array<vec4<u32>, {{ 4 * chunk }}>;
var<workgroup> scales: array<vec{{ 3 if split else 2 }}<f32>, {{ chunk }}>;  // d, and sums of d * x over the block {{ "or its halves" if split }}
{% endmacro %}
{# Leaves `count` blocks of activations there, whose vec4s the caller sets, a0 and on, from the block's number `i` and their
   `numbers` in it. together: 1, or 2 neighbouring lanes share a block, which is faster where activations are much work.
   Then some subgroups may have nothing to do, which WGSL cannot see: the kernel says diagnostic(off, subgroup_uniformity) #}
{% macro pack(count, chunk, split, workgroup, together) %}
{% set shared = together == 2 %}
    for (var at = local; at < {{ together }}u * {{ count }}; at += {{ workgroup }}u) {
      let i = at / {{ together }}u;
{% if shared %}
      let part = at % 2u;
{% endif %}
{{ caller(["(4u * part)", "(4u * part + 1u)", "(4u * part + 2u)", "(4u * part + 3u)"] if shared else ["0u", "1u", "2u", "3u", "4u", "5u", "6u", "7u"]) }}
      var top = abs(a0);
{% for j in range(1, 8 // together) %}
      top = max(top, abs(a{{ j }}));
{% endfor %}
      let most = max(max(top.x, top.y), max(top.z, top.w));
      let largest = {{ "max(most, subgroupShuffleXor(most, 1u))" if shared else "most" }};
      let d = largest / 32512.0;
      let inverse = select(0.0, 32512.0 / largest, largest > 0.0);
{% for j in range(8 // together) %}
      let q{{ j }} = vec4<i32>(round(a{{ j }} * inverse));
      let h{{ j }} = (q{{ j }} + 128) >> vec4<u32>(8u);
{% endfor %}
{% for half in range(2 // together) %}
{% set part = "part" if shared else half ~ "u" %}
      quarters[{{ part }} * {{ chunk }}u + i] = vec4<u32>({% for j in range(4) %}pack4xI8(h{{ 4 * half + j }}){{ ", " if not loop.last }}{% endfor %});
      quarters[(2u + {{ part }}) * {{ chunk }}u + i] = vec4<u32>({% for j in range(4) %}pack4xI8(q{{ 4 * half + j }}){{ ", " if not loop.last }}{% endfor %});
      let s{{ half }} = q{{ 4 * half }} + q{{ 4 * half + 1 }} + q{{ 4 * half + 2 }} + q{{ 4 * half + 3 }};
      let sum{{ half }} = s{{ half }}.x + s{{ half }}.y + s{{ half }}.z + s{{ half }}.w;
{% endfor %}
{% if shared %}
      let sum1 = subgroupShuffleXor(sum0, 1u);
      if (part == 0u) { scales[i] = {{ scales(split) }}; }
{% else %}
      scales[i] = {{ scales(split) }};
{% endif %}
    }
{% endmacro %}
{% macro scales(split) %}{{ "vec3<f32>(d, d * f32(sum0), d * f32(sum1))" if split else "vec2<f32>(d, d * f32(sum0 + sum1))" }}{% endmacro %}
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
