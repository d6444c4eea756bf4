"""Write tests/golden/smollm2.json, tiny.json and tiny.npz: what llama.cpp computes for the models of the tests.

Needs llama-cpp-python 0.3.36, gguf, numpy, jinja2 and this package; from the repository's top:

    python -m tests.golden.make_golden PATH/SmolLM2-135M-Instruct.Q4_1.gguf

llama.cpp on a CPU rounds activations to 8 bits where weights are quantized, which moves close calls. So there are two
sets of numbers: "file" of the file as it is with an f16 KV cache, and "exact" of the same weights dequantized to F32
with a float32 KV cache, where nothing is rounded.

smollm2.json
  forced: for each text its ids; by set, after each of them the most likely next id (`top1`) and how far its logit lies
    above the second (`margin`), and after each but the last the log-probability of the id that follows (`logprob`)
  perplexity: the file and how many tokens it has; by set and context `perplexity` and `tokens`, how many were averaged
  greedy: prompt (as rendered by the chat template where there are `messages`), its ids, by set 24 greedy ids and their
    text
tiny.json: by name the spec (tests.tiny.TinyLlama), the tokens, and at which of their positions logits were kept
tiny.npz: the logits, float32 (positions, n_vocab): NAME of the set "exact", NAME.file of the set "file"
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from tests.tiny import TYPES, TinyLlama, tiny_llama

FOLDER = Path(__file__).parent
CONTEXTS = (256, 512)
N_GREEDY = 24
N_TOKENS = 40
POSITIONS = list(range(4, N_TOKENS, 5))

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
    "<|im_start|>assistant\n1. Dolphins are mammals, so they must come to the surface to breathe air.\n"
    "2. Octopuses have eight arms, three hearts and blue blood, and can change the colour of their skin.\n"
    "3. Sea turtles travel thousands of kilometres and return to the beach where they were born to lay their eggs."
    "<|im_end|>\n",
)
PROMPTS: tuple[str | list[dict[str, str]], ...] = (
    "The three primary colours are",
    [{"role": "user", "content": "What is the capital of France?"}],
)

VARIANTS = {
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
    while len(made) < N_GREEDY and (not made or made[-1] != model.token_eos()):
        made.append(int(logits(model, ids + made)[-1].argmax()))
    return {"tokens": made, "text": model.detokenize(made).decode(errors="replace")}


def render(model: llama_cpp.Llama, messages: list[dict[str, str]]) -> str:
    eos, bos = (model.detokenize([id], special=True).decode() for id in (model.token_eos(), model.token_bos()))
    return Jinja2ChatFormatter(model.metadata["tokenizer.chat_template"], eos, bos)(messages=messages).prompt


def tokenize(model: llama_cpp.Llama, text: str, special: bool) -> list[int]:
    add_bos = model.metadata.get("tokenizer.ggml.add_bos_token") == "true"
    return model.tokenize(text.encode(), add_bos=add_bos, special=special)


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


def make_smollm2(path: Path) -> None:
    model, prose = load(path, 512), FOLDER / "prose.txt"
    prose_ids = tokenize(model, prose.read_text(), special=False)
    golden: dict[str, Any] = {
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "llama_cpp_python": llama_cpp.__version__,
        "forced": [{"text": text, "ids": tokenize(model, text, special=True)} for text in FORCED],
        "perplexity": {"file": prose.name, "n_tokens": len(prose_ids)},
        "greedy": [],
    }
    for text in PROMPTS:
        messages = None if isinstance(text, str) else text
        prompt = text if isinstance(text, str) else render(model, text)
        ids = tokenize(model, prompt, special=messages is not None)
        golden["greedy"].append({"messages": messages, "prompt": prompt, "ids": ids})

    def fill(name: str) -> None:
        for entry in golden["forced"]:
            entry[name] = forced(model, entry["ids"])
        golden["perplexity"][name] = {str(n_ctx): perplexity(model, prose_ids, n_ctx) for n_ctx in CONTEXTS}
        for entry in golden["greedy"]:
            entry[name] = greedy(model, entry["ids"])

    fill("file")
    with tempfile.TemporaryDirectory() as folder:
        exact = Path(folder) / "exact.gguf"
        write_dequantized(path, exact)
        model = load(exact, 512, gguf.GGMLQuantizationType.F32)
        fill("exact")
    (FOLDER / "smollm2.json").write_text(json.dumps(golden, ensure_ascii=False) + "\n")


def make_tiny() -> None:
    specs, arrays = {}, {}
    for name, spec in VARIANTS.items():
        tokens = np.random.RandomState(spec.seed).randint(3, 300, N_TOKENS).tolist()
        specs[name] = {"spec": asdict(spec), "tokens": tokens, "positions": POSITIONS}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "tiny.gguf"
            path.write_bytes(tiny_llama(spec, dequantized=True))
            arrays[name] = logits(load(path, N_TOKENS, gguf.GGMLQuantizationType.F32), tokens)[POSITIONS]
            path.write_bytes(tiny_llama(spec))
            arrays[name + ".file"] = logits(load(path, N_TOKENS), tokens)[POSITIONS]
    (FOLDER / "tiny.json").write_text(json.dumps(specs) + "\n")
    np.savez_compressed(FOLDER / "tiny.npz", **arrays)


if __name__ == "__main__":
    make_tiny()
    make_smollm2(Path(sys.argv[1]))
