"""qwen35moe: Qwen 3.5 with experts. As qwen35, with experts and one that is every token's, behind a gate."""

from __future__ import annotations

from dataclasses import dataclass

from llamaweb.architectures.blocks import Blocks, Decoder, decoder
from llamaweb.architectures.delta_net import DeltaNet, behind_mixer, delta_net, recurrent
from llamaweb.architectures.experts import Experts, experts
from llamaweb.architectures.metadata import Metadata, of_text, rope
from llamaweb.graph import Graph
from llamaweb.model.gguf_file import GGUFFile
from llamaweb.rope import Rope


@dataclass(frozen=True)
class Qwen35MoeHyperparameters(Decoder):
    """recurrent: whether each layer is."""

    rope: Rope
    recurrent: tuple[bool, ...]
    net: DeltaNet
    experts: Experts


def hyperparameters(file: GGUFFile, *, grouped: bool = False) -> Qwen35MoeHyperparameters:
    """grouped: as of DeltaNet."""
    meta = Metadata(file)
    common = decoder(file, meta)
    return Qwen35MoeHyperparameters(
        **vars(common),
        rope=of_text(rope(meta, "neox", common.head_dim), meta),
        recurrent=recurrent(meta, common.n_layer),
        net=delta_net(meta, common.eps, grouped=grouped),
        experts=experts(meta, meta.count("expert_feed_forward_length"), norm=True),
    )


def build(graph: Graph, hparams: Qwen35MoeHyperparameters) -> None:
    g, hp, b = graph, hparams, Blocks(graph, hparams)
    x = b.embeddings()
    for p, fades in zip(b.layers(), hp.recurrent, strict=True):
        x = behind_mixer(g, b, x, p, hp, hp.rope, hp.net if fades else None)
        x = b.behind_gated_experts(x, b.norm(x, p + "post_attention_norm"), p, hp.experts)
    b.logits(x)
