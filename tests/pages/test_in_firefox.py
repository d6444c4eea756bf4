"""The commands that measure, and the chat page, in Firefox: real processes, a real browser, tiny models and one that is
small."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llamaweb.host.bidi import BiDi, TakenError
from llamaweb.host.browser import BrowserChoice, PageError
from llamaweb.host.firefox import Firefox
from tests.reference import ReferenceLlama
from tests.tiny import TinyLlama, tiny_llama

GOLDEN = Path(__file__).parents[1] / "golden"
CHUNK = 30
SIZES = ("--prompt-tokens", 20, "--gen-tokens", 9, "--reps", 2, "--context", 64)
# Uses the page as a person does, and tells what can be read: what was there before, the answer, the line below it.
CHAT = """async (question) => {
  const at = (id) => document.getElementById(id);
  const until = async (what) => {
    for (let value; !at("error").textContent; await new Promise((resolve) => setTimeout(resolve, 20)))
      if ((value = what())) return value;
    throw new Error(at("error").textContent);
  };
  const button = await until(() => !at("default").hidden && at("default"));
  button.click();
  await until(() => document.body.dataset.state === "ready");
  at("length").value = "24";
  at("temperature").value = "0";
  at("question").value = question;
  at("question").dispatchEvent(new Event("input"));
  at("send").click();
  await until(() => document.body.dataset.state === "answering");
  await until(() => document.body.dataset.state === "ready");
  return { answer: document.querySelector("#log .assistant .words").textContent, facts: at("facts").textContent };
}"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    path.write_bytes(tiny_llama(TinyLlama(type="Q4_0")))
    return path


def in_json(*arguments: object) -> dict[str, Any]:
    command = [sys.executable, "-m", "llamaweb.host.cli", *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_perplexity_is_the_references(model: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("the other king is on the hill and it is raining\n" * 3)
    ids = in_json("tokenize", model, "--file", tmp_path / "text")["ids"]
    reference, losses = ReferenceLlama(model.read_bytes()), []
    for chunk in (ids[at : at + CHUNK] for at in range(0, len(ids), CHUNK)):
        logits = reference.logits(chunk)[:-1].astype(np.float64)
        each = np.log(np.exp(logits).sum(axis=-1)) - logits[np.arange(len(chunk) - 1), chunk[1:]]
        losses += each.tolist()
    found = in_json("perplexity", model, "--file", tmp_path / "text", "--context", CHUNK, "--browser", "firefox")
    assert found["tokens"] == len(losses) > 50
    assert found["perplexity"] == pytest.approx(np.exp(np.mean(losses)), rel=1e-4)


@pytest.mark.parametrize("context", [256, 512])  # of which the text fills three and a part, and one and a part
def test_perplexity_of_the_default_model_is_within_half_a_percent_of_llama_cpp(context: int) -> None:
    found = in_json("perplexity", "--file", GOLDEN / "prose.txt", "--context", context, "--browser", "firefox")
    for mode in ("exact", "file"):  # of the weights as float32, and of the file with llama.cpp's rounding
        golden = json.loads((GOLDEN / "smollm2.json").read_text())["perplexity"][mode][str(context)]
        assert found["tokens"] == golden["tokens"]
        assert found["perplexity"] == pytest.approx(golden["perplexity"], rel=0.005)


def test_bench_measures_with_the_gpus_own_clock(model: Path) -> None:
    result = in_json("bench", model, *SIZES, "--profile", "--floor", "--browser", "firefox")
    assert result["runtime"].startswith("Firefox ") and result["adapter"] == "unnamed software adapter"
    assert len(result["decode_all"]) == 2 and result["prefill_per_second"] > 0
    assert result["profile"]["source"] == "timestamps"
    assert result["floor"] is None  # which needs subgroups


def test_the_chat_page_answers_in_a_firefox_that_nobody_else_can_drive_meanwhile(site: str) -> None:
    firefox = Firefox(BrowserChoice(kind="firefox"))
    try:
        with pytest.raises(TakenError):
            BiDi(firefox.address, 10)
        firefox.get(site)
        told = firefox.tab.run(CHAT, "the king")
    finally:
        firefox.quit()
    assert told["answer"] and "first word after" in told["facts"] and "tokens/s" in told["facts"]


def test_a_firefox_for_a_local_model_reaches_this_machine_alone(site: str) -> None:
    firefox = Firefox(BrowserChoice(kind="firefox", offline=True))
    try:
        with pytest.raises(PageError, match="PROXY_CONNECTION_REFUSED") as told:
            firefox.get("http://192.0.2.1/?token=secret")
        assert "secret" not in str(told.value)
        firefox.get(site)
    finally:
        firefox.quit()
