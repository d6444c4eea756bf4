"""qwen35: Qwen 3.5. Most layers are gated delta nets, every fourth a gated attention."""

from __future__ import annotations

from dataclasses import dataclass, replace

from llamaweb import operations as ops
from llamaweb.architectures.blocks import Blocks, Dense, dense
from llamaweb.architectures.delta_net import DeltaNet, behind_mixer, delta_net, recurrent
from llamaweb.architectures.metadata import Metadata, of_text
from llamaweb.graph import Graph
from llamaweb.model.gguf_file import GGUFFile


@dataclass(frozen=True)
class Qwen35Hyperparameters(Dense):
    """recurrent: whether each layer is."""

    recurrent: tuple[bool, ...]
    net: DeltaNet


def hyperparameters(file: GGUFFile) -> Qwen35Hyperparameters:
    meta, common = Metadata(file), dense(file, "neox")
    return Qwen35Hyperparameters(
        **vars(replace(common, rope=of_text(common.rope, meta))),
        recurrent=recurrent(meta, common.n_layer),
        net=delta_net(meta, common.eps),
    )


def build(graph: Graph, hparams: Qwen35Hyperparameters) -> None:
    g, hp, b = graph, hparams, Blocks(graph, hparams)
    x = b.embeddings()
    for p, fades in zip(b.layers(), hp.recurrent, strict=True):
        x = behind_mixer(g, b, x, p, hp, hp.rope, hp.net if fades else None)
        h = b.norm(x, p + "post_attention_norm")
        x = ops.add(g, x, b.feed_forward(h, p, hp.n_ff, ops.swiglu), p + "ffn_residual")
    b.logits(x)
