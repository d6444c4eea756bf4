"""Embeddings of each token for each layer, as Gemma 3n and Gemma 4 have them."""

from __future__ import annotations

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks, Decoder
from llamaweb.architectures.metadata import layer_of
from llamaweb.graph import Graph, Tensor


def own_embeddings(g: Graph, x: Tensor, b: Blocks, sizes: Decoder, n_own: int) -> Tensor:
    """A table's and what x is projected to, `n_own` values for each layer: (n_layer * n_own, T)."""
    width = sizes.n_layer * n_own
    table = g.weight("per_layer_token_embd.weight", width, sizes.n_vocab)
    rows = ops.scale(g, ops.get_rows(g, table, "own_embd"), n_own**0.5, "own_embd_scaled")
    projected = ops.scale(g, b.product(x, "per_layer_model_proj", width), x.row**-0.5, "own_proj_scaled")
    projected = b.norm(projected, "per_layer_proj_norm", n_own)
    return ops.elementwise(g, ("mul", ("add", 0, 1), 0.5**0.5), (projected, rows), "own")


def own_branch(g: Graph, x: Tensor, own: Tensor, b: Blocks, p: str, n_own: int) -> Tensor:
    """What the layer computes of x, with its own of the embeddings as a gate: as x."""
    gate = b.product(x, p + "inp_gate", n_own)
    of_layer = ops.view(g, own, layer_of(p) * n_own, n_own, p + "inp_own")
    y = b.product(ops.geglu(g, gate, of_layer, p + "inp_glu"), p + "proj", x.row)
    return b.norm(y, p + "post_norm")
