{# As mul_mat_id_tiles, with the matrix units of subgroups, as mul_mat_matrix has them #}
{% set shared = "common/id_product.wgsl" %}
{% include "mul_mat_matrix.wgsl" %}
