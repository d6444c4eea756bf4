"""Which models are for embeddings, and how a text's is made of its tokens'."""

from __future__ import annotations

from typing import Any

from llamaweb.architectures import architecture
from llamaweb.architectures.blocks import Encoder
from llamaweb.architectures.metadata import unsound
from llamaweb.errors import LlamaWebError, UnsupportedError, short
from llamaweb.model.gguf_file import GGUFFile
from llamaweb.pooling import POOLINGS, Pooling

_RANK = 4  # of LLAMA_POOLING_TYPE: what reranks
_UNSPECIFIED = (-1, 2**32 - 1)


def pooling_of(file: GGUFFile, hparams: Any, asked: str | None = None) -> Pooling | None:
    """How a model's embeddings are pooled, if it is for these: it is an encoder, its file has a pooling, or one of
    POOLINGS is asked for. None: it is for text. Raises ModelFileError or UnsupportedError for what the file has."""
    encoder = isinstance(hparams, Encoder)
    key = f"{file.architecture}.pooling_type"
    told = file.metadata.get(key, -1)
    if isinstance(told, bool) or not isinstance(told, int) or told not in (*_UNSPECIFIED, *range(_RANK + 1)):
        raise unsound(f"{key} is {short(told)}, not a whole number from 0 to {_RANK}")
    if told == _RANK and asked is None:
        raise UnsupportedError(
            f"The model ranks documents ({key} is {_RANK}), which is not supported yet; use another."
        )
    kind = asked or (POOLINGS[told] if told in range(_RANK) else "none")
    told_causal = file.metadata.get(f"{file.architecture}.attention.causal", True)
    if not isinstance(told_causal, bool):
        raise unsound(f"{file.architecture}.attention.causal is {short(told_causal)}, not true or false")
    causal = not encoder and told_causal
    if kind == "none" and not encoder and asked is None:
        if not causal:
            raise UnsupportedError(
                f"The model's tokens see those behind them ({file.architecture}.attention.causal is false), so that "
                'they give no text; ask for embeddings (pooling="mean", say), or use another model.'
            )
        return None
    return Pooling(kind, causal=causal)


def check_generates(file: GGUFFile, asked: str | None = None) -> None:
    """Raises LlamaWebError for a model that gives embeddings instead of text; asked: as of `pooling_of`."""
    if pooling_of(file, architecture(file).hyperparameters(file), asked):
        raise no_text()


def check_embeds(file: GGUFFile, asked: str | None = None) -> None:
    """Raises LlamaWebError for a model that gives text instead of embeddings; asked: as of `pooling_of`."""
    if not pooling_of(file, architecture(file).hyperparameters(file), asked):
        raise no_embeddings()


def no_embeddings() -> LlamaWebError:
    return LlamaWebError('This model was loaded for text; load it with pooling="mean" to embed texts.')


def no_text() -> LlamaWebError:
    return LlamaWebError("This model gives embeddings and no text; use embed(texts), or another model for text.")
