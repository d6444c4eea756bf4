{# As mul_mat_id_tiles, with the packed integer dot, as mul_mat_packed has it #}
{% set shared = "common/id_product.wgsl" %}
{% include "mul_mat_packed.wgsl" %}
