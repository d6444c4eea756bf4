"""The command line as a person and a script use it: real processes, a real browser, tiny models."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from math import floor
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, CookieJar
from yarl import URL

from llamaweb.errors import megabytes
from llamaweb.host.distribution import ensure_distribution
from llamaweb.host.kept import STAMPS, cache_root
from tests.families import EMBEDDERS
from tests.tiny import TinyLlama, tiny_llama, tiny_model

TEXT = "the other king is on the hill and it is raining\n" * 12
SECONDS = 300


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    path.write_bytes(tiny_llama(TinyLlama(type="Q4_0")))
    return path


@pytest.fixture(scope="module", autouse=True)
def interruptible() -> Iterator[None]:
    """Ctrl-C reaches what is started here, too, where the tests run in the background and a shell has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary files go, those of a browser included; its path is short, as that of /tmp."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "a text.txt"
    path.write_text(TEXT)
    return path


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "llamaweb.host.cli", *map(str, arguments)]


def llamaweb(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=SECONDS)


def in_json(*arguments: object) -> dict[str, Any]:
    done = llamaweb(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    return json.loads(done.stdout)


def sentence(*arguments: object) -> str:
    """The one sentence of a command that must fail."""
    done = llamaweb(*arguments)
    assert done.returncode == 1 and done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def test_run_gives_the_answer_on_standard_output_and_the_rest_beside_it(model: Path, temporary: Path) -> None:
    options = (model, "-p", "the king", "--max-tokens", 12, "--temperature", 1.5, "--seed", 7, "--context", 64)
    done = llamaweb("run", *options)
    assert done.returncode == 0, done.stderr
    assert "loaded in" in done.stderr and "GPU memory" in done.stderr and "Loading the weights" in done.stderr
    result = in_json("run", *options)
    assert done.stdout == result["text"] + "\n"
    assert 1 <= len(result["tokens"]) <= 12
    assert set(result["timings"]) >= {
        "prompt_tokens",
        "prompt_ms",
        "prompt_per_second",
        "generated_tokens",
        "generated_ms",
        "generated_per_second",
        "load_ms",
        "first_token_ms",
    }
    assert result["timings"]["generated_tokens"] == len(result["tokens"])
    memory = result["memory"]
    assert memory["total"] == sum(memory[name] for name in ("weights", "kv", "arena", "io"))
    assert memory["wasm_heap"] > 0 and result["adapter"] and result["dispatches_per_token"] > 0
    assert list(temporary.iterdir()) == []


def test_inspect_plans_what_run_then_creates(model: Path) -> None:
    planned = in_json("inspect", model, "--context", 64, "--plan")
    created = in_json("run", model, "-p", "the", "--max-tokens", 1, "--context", 64)
    for name in ("weights", "kv", "arena", "io", "total"):
        assert planned["memory"][name] == created["memory"][name], name
    assert planned["dispatches_per_token"] == created["dispatches_per_token"]
    assert planned["arena_lower_bound"] <= planned["memory"]["arena"]
    assert planned["metadata"]["general.architecture"] == "llama"
    assert len(planned["plan"]["decode"]) == planned["dispatches_per_token"]


def test_a_budget_is_kept_and_what_does_not_fit_is_refused_with_what_would(model: Path) -> None:
    found = in_json("run", model, "-p", "the", "--max-tokens", 1, "--context", 0, "--budget", "400k")
    assert found["memory"]["peak"] <= 400_000
    refused = sentence("run", model, "-p", "the", "--context", 512, "--budget", 1000 + found["memory"]["weights"])
    budget = megabytes(1000 + found["memory"]["weights"], floor)
    assert f"the budget is {budget}; " in refused and "use a smaller model" in refused


def test_perplexity_averages_over_all_but_each_chunks_first_token(model: Path, text: Path) -> None:
    ids = in_json("tokenize", model, "--file", text)["ids"]
    result = in_json("perplexity", model, "--file", text, "--context", 50)
    assert len(ids) > 100
    assert result["tokens"] == len(ids) - -(-len(ids) // 50)
    assert result["perplexity"] > 1


def test_embed_gives_each_lines_vector_and_tokens(tmp_path: Path) -> None:
    model, text = tmp_path / "bert.gguf", tmp_path / "texts.txt"
    model.write_bytes(tiny_model(EMBEDDERS["bert"].spec))
    lines = ["the other king", "is on the hill and it is raining", "the other king"]
    text.write_text("\n".join(lines) + "\n")
    result = in_json("embed", model, "--file", text)
    assert [len(row) for row in result["embeddings"]] == [72] * 3 and result["tokens"][0] == result["tokens"][2]
    first, second, third = result["embeddings"]
    assert first == pytest.approx(third, abs=1e-5) != pytest.approx(second, abs=1e-2)
    assert sum(x * x for x in first) == pytest.approx(1)
    ids = in_json("tokenize", model, "--file", text)["ids"]
    assert sum(result["tokens"]) < len(ids) and result["memory"]["kv"] == 0


def test_tokenize_parses_special_tokens_only_when_asked(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "special.txt"
    path.write_text("<|im_start|>user")
    plain, special = (in_json("tokenize", model, "--file", path, *more)["ids"] for more in ([], ["--special"]))
    assert len(special) < len(plain) and 1 in special and 1 not in plain


def test_a_context_longer_than_the_models_is_one_sentence(model: Path) -> None:
    assert "512" in sentence("run", model, "-p", "x", "--context", 4096)
    assert "512" in sentence("inspect", model, "--context", 4096)


def test_a_browser_without_webgpu_is_one_sentence(model: Path) -> None:
    assert "WebGPU" in sentence("run", model, "-p", "x", "--chrome-flag=--disable-software-rasterizer")


def test_a_model_that_is_no_model_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "letter.gguf"
    assert f"There is no file {path}" in sentence("run", path, "-p", "x")
    path.write_text("Dear model,")
    assert "is not a GGUF file" in sentence("run", path, "-p", "x")


def test_an_architecture_that_is_not_there_yet_is_named(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.gguf"
    path.write_bytes(model.read_bytes().replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0mamba", 1))
    assert "mamba" in sentence("inspect", path)
    assert "mamba" in sentence("run", path, "-p", "x")


@contextmanager
def serve(model: Path, *arguments: object) -> Iterator[URL]:
    """The address that `llamaweb serve` tells, until it is interrupted."""
    with subprocess.Popen(
        command("serve", model, *arguments, "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None and server.stderr is not None
            yield URL(json.loads(server.stdout.readline())["url"])
            server.send_signal(signal.SIGINT)
            assert server.wait(30) == 130
            assert server.stderr.read() == "Interrupted.\n"
        finally:
            server.kill()


def test_an_address_that_serve_printed_works_again_when_it_has_started_again(
    model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def visit(address: URL) -> bytes:
        jar = CookieJar(unsafe=True)
        async with ClientSession(cookie_jar=jar) as session:
            inside = (await session.get(address)).url
            return await (await session.get(inside / "model" / model.name)).read()

    (tmp_path / "llamaweb").mkdir()
    for path in (ensure_distribution(), cache_root() / STAMPS):
        (tmp_path / "llamaweb" / path.name).symlink_to(path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with serve(model, "--port", 0) as first:
        assert asyncio.run(visit(first)) == model.read_bytes()
        assert f"Port {first.port} is in use" in sentence("serve", model, "--port", first.port)
    with serve(model, "--port", first.port) as second:
        assert second == first and asyncio.run(visit(first)) == model.read_bytes()
    assert (tmp_path / "llamaweb" / "login").read_text() == first.query["token"]


def test_a_model_at_an_address_is_inspected_from_there(model: Path) -> None:
    handler = partial(SimpleHTTPRequestHandler, directory=str(model.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        found = in_json("inspect", f"http://127.0.0.1:{server.server_port}/{model.name}")
        server.shutdown()
    assert found["metadata"]["general.architecture"] == "llama"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_with_130_and_leaves_no_browser(
    model: Path, number: signal.Signals, temporary: Path
) -> None:
    process = subprocess.Popen(
        command("run", model, "-p", "the", "--max-tokens", 400, "--temperature", 2),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    with process:
        assert process.stdout is not None and process.stderr is not None
        for line in process.stderr:
            if line.startswith("Starting Python"):
                break
        drivers = _children(process.pid)
        assert drivers
        process.send_signal(number)
        errors = process.stderr.read()
        assert process.wait(60) == 130
    assert errors.splitlines()[-1] == "Interrupted."
    deadline = time.monotonic() + 60
    while any(map(_alive, drivers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(_alive, drivers))
    assert list(temporary.iterdir()) == []


def _children(pid: int) -> list[int]:
    """A process's children, and theirs."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found + [grandchild for child in found for grandchild in _children(child)]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_default_model_answers_a_question() -> None:
    result = in_json(
        "run", "-p", "What is the capital of France?", "--chat", "--temperature", 0, "--max-tokens", 8, "--context", 64
    )
    assert "Paris" in result["text"]
