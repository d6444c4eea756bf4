"""Write tests/golden/greedy.json: tokens that llama.cpp's CPU chose one after the other, of files as they are.

From the repository's top:

    python -m tests.golden.make_greedy_golden

By model, the ids of a prompt and of the N tokens behind it. Given these, our engine's likeliest tokens are compared
with them, as in the study of "Llamas on the Web" (forced decoding).
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from tests.families import MODELS, TOKENS
from tests.golden import llamacpp
from tests.models import gemma3_path, smollm2_path
from tests.tiny import tiny_model

FILE = Path(__file__).parent / "greedy.json"
N = 128
TINY = ("cohere2, Q8_0", "glm4moe, groups", "hunyuan-dense, Q4_0", "olmo2, windows", "qwen2moe, Q4_0")  # quantized ones


def main() -> None:
    found = {}
    for name, path in {"smollm2": smollm2_path(), "gemma3": gemma3_path()}.items():
        prompt = json.loads((FILE.parent / f"{name}.json").read_text())["greedy"][0]["ids"]
        found[f"the {name} of the tests"] = {"prompt": prompt, "chosen": llamacpp.greedy(path, prompt, N)}
    with tempfile.TemporaryDirectory() as folder:
        for name in TINY:
            path = Path(folder) / "tiny.gguf"
            path.write_bytes(tiny_model(MODELS[name].spec))
            found[name] = {"prompt": TOKENS[:20], "chosen": llamacpp.greedy(path, TOKENS[:20], N)}
    FILE.write_text(json.dumps(found, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
