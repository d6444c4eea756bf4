{% for slot in slots %}
@group(0) @binding({{ loop.index0 }}) var<storage, {{ slot.access }}> {{ slot.name }}: array<{{ slot.type }}>;
{% endfor %}
