"""minicpm: MiniCPM 1 and 2. As granite, with factors that follow from its sizes unless the file tells them."""

from __future__ import annotations

from llamaweb.architectures.blocks import dense
from llamaweb.architectures.experts import optional_experts
from llamaweb.architectures.metadata import Metadata
from llamaweb.families.granite import GraniteHyperparameters, build
from llamaweb.model.gguf_file import GGUFFile

__all__ = ["build", "hyperparameters"]


def hyperparameters(file: GGUFFile) -> GraniteHyperparameters:
    meta, common = Metadata(file), dense(file, "norm")
    return GraniteHyperparameters(
        **vars(common),
        embedding_scale=meta.number("embedding_scale", 12.0, least=1e-6),
        residual_scale=meta.number("residual_scale", 1.4 / common.n_layer**0.5, least=1e-6),
        attention_scale=common.head_dim**-0.5,
        logit_scale=meta.number("logit_scale", 256 / common.n_embd, least=1e-6),
        rotation=common.rope,
        experts=optional_experts(meta, common.n_ff),
    )
