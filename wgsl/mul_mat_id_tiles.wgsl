{# y = W x of each of a batch's (token, expert) pairs; else as mul_mat #}
{% set shared = "common/id_product.wgsl" %}
{% include "mul_mat.wgsl" %}
