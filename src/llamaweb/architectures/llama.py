"""llama: Llama 1 to 3, SmolLM, Mistral 7B and the many models that share their graph."""

from __future__ import annotations

from dataclasses import dataclass

from llamaweb.architectures.metadata import Metadata, layers, rope, tokens
from llamaweb.errors import ModelFileError, UnsupportedError
from llamaweb.graph import VECTORS, Graph, Tensor
from llamaweb.model.gguf_file import GGUFFile
from llamaweb.rope import Rope


@dataclass(frozen=True)
class LlamaHyperparameters:
    n_layer: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_vocab: int
    n_ctx_train: int
    rms_eps: float
    rope: Rope


def hyperparameters(file: GGUFFile) -> LlamaHyperparameters:
    meta = Metadata(file)
    if experts := meta.number("expert_count", 0):
        raise UnsupportedError(
            f"The model is a mixture of {experts:g} experts, which is not supported yet; use a dense one."
        )
    n_layer, n_embd = layers(file, meta), meta.count("embedding_length")
    n_vocab = tokens(file, n_embd)
    n_head = meta.count("attention.head_count")
    n_head_kv = meta.count("attention.head_count_kv", n_head)
    head_dim = meta.count("attention.key_length", max(n_embd // n_head, 1))
    if n_head % n_head_kv:
        raise ModelFileError(f"{n_head} attention heads do not divide into {n_head_kv} key-value heads.")
    if meta.count("attention.value_length", head_dim) != head_dim:
        raise ModelFileError("The key and value lengths differ, which the llama family does not have.")
    factors = file.tensors.get("rope_freqs.weight")
    rotary = rope(meta, "norm", head_dim, factors.name if factors else None)
    if factors and (factors.type not in VECTORS or factors.shape != (rotary.n_dims // 2,)):
        raise ModelFileError(
            f"Tensor {factors.name} has shape {list(factors.shape)} in {factors.type.name}, not "
            f"[{rotary.n_dims // 2}] in F32, F16 or BF16; the file contradicts itself."
        )
    return LlamaHyperparameters(
        n_layer=n_layer,
        n_embd=n_embd,
        n_ff=meta.count("feed_forward_length"),
        n_head=n_head,
        n_head_kv=n_head_kv,
        head_dim=head_dim,
        n_vocab=n_vocab,
        n_ctx_train=meta.count("context_length", largest=1 << 31),
        rms_eps=meta.number("attention.layer_norm_rms_epsilon"),
        rope=rotary,
    )


def build(graph: Graph, hparams: LlamaHyperparameters) -> None:
    g, hp = graph, hparams
    q_dim, kv_dim = hp.n_head * hp.head_dim, hp.n_head_kv * hp.head_dim
    table = g.weight("token_embd.weight", hp.n_embd, hp.n_vocab)
    x = g.get_rows(table, "embd")

    def product(name: str, x: Tensor, size: int) -> Tensor:
        return g.mul_mat(g.weight(name + ".weight", x.row, size), x, name, g.optional_weight(name + ".bias", size))

    for i in range(hp.n_layer):
        p = f"blk.{i}."
        h = g.rms_norm(x, g.weight(p + "attn_norm.weight", hp.n_embd), hp.rms_eps, p + "attn_norm")
        q, k, v = (product(f"{p}attn_{part}", h, dim) for part, dim in (("q", q_dim), ("k", kv_dim), ("v", kv_dim)))
        a = g.flash_attn(q, k, v, layer=i, head_dim=hp.head_dim, rope=hp.rope, scale=hp.head_dim**-0.5, name=p + "attn")
        x = g.add(x, product(p + "attn_output", a, hp.n_embd), p + "attn_residual")
        h = g.rms_norm(x, g.weight(p + "ffn_norm.weight", hp.n_embd), hp.rms_eps, p + "ffn_norm")
        glu = g.swiglu(product(p + "ffn_gate", h, hp.n_ff), product(p + "ffn_up", h, hp.n_ff), p + "ffn_glu")
        x = g.add(x, product(p + "ffn_down", glu, hp.n_embd), p + "ffn_residual")
    x = g.rms_norm(g.output_rows(x), g.weight("output_norm.weight", hp.n_embd), hp.rms_eps, "output_norm")
    output = g.weight("output.weight", hp.n_embd, hp.n_vocab) if g.has("output.weight") else table
    g.sample(g.mul_mat(output, x, "logits"))
