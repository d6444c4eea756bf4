"""A terminal is commanded by nobody but us: not by files, their names, servers or what goes wrong."""

from __future__ import annotations

import ast
import io
import json
import logging
import math
import socket
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from gguf import GGUFValueType

import llamaweb
from llamaweb.host import commands
from llamaweb.host.cli import main
from llamaweb.host.kept import Kept
from llamaweb.host.output import Output
from llamaweb.host.tables import bench_text, cache_text
from llamaweb.host.terminal import Logged, harmless, in_lines, one_line, write_json
from tests.crafted import crafted
from tests.terminal import ATTACK, NAME, check_obeys_nobody, on_a_terminal, write_hostile

BIDIRECTIONAL = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def test_every_control_is_shown_as_an_escape() -> None:
    controls = [*map(chr, range(32)), *map(chr, range(0x7F, 0xA0)), *BIDIRECTIONAL, "\u2028", "\u2029"]
    for control in controls:
        assert harmless(control, keep="").isascii() and harmless(control, keep="").isprintable()
        assert (harmless(control) == control) == (control in "\n\t")
        assert one_line(f"a{control}b").replace("\\", "").isprintable()
    assert one_line("a\r\nb\tc\nd\u2028e\x85f") == "a b c d\\u2028e\\x85f"


def test_texts_that_no_terminal_obeys_stay_as_they_are() -> None:
    text = "ü 日本 👩‍👩‍👧 [red] {x} \\n é עברית"
    assert harmless(text) == one_line(text) == text


def test_a_result_is_said_line_by_line_and_stays_json_for_scripts() -> None:
    value = {"a": [ATTACK, {"b": ATTACK + "\x7f"}], "c": 1.5, "d": None}
    assert "\n" not in str(in_lines(value)["a"]) and in_lines(value)["c"] == 1.5
    stream = io.StringIO()
    write_json(stream, value)
    assert json.loads(stream.getvalue()) == value
    assert stream.getvalue()[:-1].isprintable() and stream.getvalue().isascii()


def test_what_json_has_no_number_for_is_null() -> None:
    stream = io.StringIO()
    write_json(stream, {"a": [-math.inf, {"b": math.nan}], "c": (1.5, math.inf)})
    assert json.loads(stream.getvalue()) == {"a": [None, {"b": None}], "c": [1.5, None]}


def test_what_libraries_log_is_shown_and_not_sent(capsys: pytest.CaptureFixture[str]) -> None:
    record = logging.LogRecord("aiohttp.server", logging.ERROR, "x", 1, "Error: %s", (ATTACK,), None)
    Logged().emit(record)
    check_obeys_nobody(capsys.readouterr().err, its_lines=True)
    assert main(["cache", "--json"]) == 0 and isinstance(logging.lastResort, Logged)


def test_nothing_writes_to_a_terminal_beside_the_one_place() -> None:
    """`__main__` says one word of its own while Python has imported nothing else."""
    folder = Path(llamaweb.__file__).parent
    found = []
    for path in folder.rglob("*.py"):
        if path.relative_to(folder).as_posix() in ("host/terminal.py", "__main__.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in ("print", "sys.exit.write") or called.endswith(("stdout.write", "stderr.write")):
                    found.append(f"{path.name}:{node.lineno} {called}")
    assert not found


def test_tables_of_names_are_lines_of_ours_alone() -> None:
    def result(name: str) -> dict[str, Any]:
        speeds = {f"{what}_{key}": [1.0] for what in ("prefill", "decode") for key in ("all",)}
        sizes = {"prompt_tokens": 1, "gen_tokens": 2, "depth": 0, "load_ms": 1.0, "dispatches_per_token": 1}
        memory = dict.fromkeys(("weights", "kv", "arena", "io", "total"), 1)
        names = {**dict.fromkeys(("model", "adapter", "runtime"), name), "peer": {"engine": name, "error": name}}
        return {**speeds, "prefill_per_second": 1.0, "decode_per_second": 1.0, **sizes, **names, "memory": memory}

    def cached(name: str) -> str:
        entry = Kept(name, "model", 1, Path(name))
        return cache_text(name, [entry], [entry])

    for text in (lambda name: bench_text(result(name)), cached):
        check_obeys_nobody(text(ATTACK))
        assert text(ATTACK).count("\n") == text("name").count("\n")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hostile(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("arguments", (["inspect", "--plan"], ["inspect", "--json"]), ids=" ".join)
def test_a_hostile_model_is_inspected_on_a_terminal(hostile: Path, arguments: list[str]) -> None:
    code, sent = on_a_terminal(*arguments, hostile)
    assert code == 0 and sent.count("EVIL") > 50
    check_obeys_nobody(sent)
    if "--json" in arguments:
        assert json.loads(sent)["metadata"]["general.name"] == ATTACK


def test_a_hostile_model_tokenizes_on_a_terminal(hostile: Path, tmp_path: Path) -> None:
    text = tmp_path / NAME
    text.write_text(ATTACK)
    code, sent = on_a_terminal("tokenize", hostile, "--file", text)
    assert code == 0 and sent.replace(" ", "").strip().isdecimal()
    code, sent = on_a_terminal("tokenize", hostile, "--file", tmp_path / f"{NAME}2")
    assert code == 1 and "EVIL" in sent
    check_obeys_nobody(sent)


WRONG_FILES: dict[str, Callable[[], bytes]] = {
    "architecture": lambda: crafted({"general.architecture": (ATTACK, GGUFValueType.STRING)}),
    "tokenizer": lambda: crafted({"tokenizer.ggml.model": (ATTACK, GGUFValueType.STRING)}),
    "tensor": lambda: crafted().replace(b"output_norm.weight", b"EVIL\x1b[2J\x9b\r\nxxxxx"),
    "no model": lambda: ATTACK.encode(),
    "an answer": lambda: b"<html>" + ATTACK.encode(),
}


@pytest.mark.parametrize("wrong", WRONG_FILES)
def test_what_is_wrong_with_a_hostile_file_is_one_line(
    wrong: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"{NAME}.gguf"
    path.write_bytes(WRONG_FILES[wrong]())
    assert main(["inspect", str(path)]) == 1
    sent = capsys.readouterr().err
    assert "EVIL" in sent and sent.count("\n") == 1
    check_obeys_nobody(sent)


def test_a_hostile_name_that_is_warned_of_is_one_line(tmp_path: Path) -> None:
    path, text = tmp_path / "pre.gguf", tmp_path / "text"
    path.write_bytes(crafted({"tokenizer.ggml.pre": (ATTACK, GGUFValueType.STRING)}))
    text.write_text("a")
    code, sent = on_a_terminal("tokenize", path, "--file", text)
    assert code == 0 and "names an unknown pre-tokenizer" in sent and "EVIL" in sent
    check_obeys_nobody(sent)


REASON = "HTTP/1.1 404 EVIL\x1b[2JEVIL\x9b31mEVIL\u202eEVIL\tx\r\nContent-Length: 0\r\n\r\n"
ANSWERS = {
    "reason": REASON,
    "header": "HTTP/1.1 200 OK\r\nContent-Encoding: EVIL\x9bEVIL\u202eEVIL\tx\r\n\r\n",
    "place": "HTTP/1.1 302 x\r\nLocation: EVIL\x1b[2J://EVIL\x9b\r\nContent-Length: 0\r\n\r\n",
    "no HTTP": ATTACK,
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_what_a_hostile_server_answers_is_one_line(answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):  # closed
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.recv(1 << 16)
                        connection.sendall(ANSWERS[answer].encode())

        Thread(target=serve, daemon=True).start()
        assert main(["inspect", f"http://127.0.0.1:{server.getsockname()[1]}/EVIL%1b[2J\x1b[2J.gguf"]) == 1
    sent = capsys.readouterr().err
    assert "EVIL" in sent and sent.count("\n") == 1
    check_obeys_nobody(sent)


def test_a_bug_that_is_looked_for_shows_its_traceback_harmlessly(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def broken(args: object, out: Output) -> None:
        warnings.warn(ATTACK, llamaweb.errors.ModelWarning, stacklevel=1)
        raise ZeroDivisionError(ATTACK)

    monkeypatch.setenv("LLAMAWEB_DEBUG", "1")
    monkeypatch.setitem(commands.COMMANDS, "inspect", broken)
    assert main(["inspect"]) == 1
    errors = capsys.readouterr().err
    assert "Traceback" in errors and "EVIL" in errors
    check_obeys_nobody(errors, its_lines=True)


DRAWN = """
from llamaweb.host.output import Output
from tests.terminal import ATTACK
out = Output()
for done in range(5):
    out.report("Fetching " + ATTACK[-120:], done, 5, "B")
out.clear()
"""


def test_progress_of_a_hostile_name_is_drawn_by_us_alone() -> None:
    code, sent = on_a_terminal(command=(sys.executable, "-c", DRAWN))
    assert code == 0 and "[bold]markup[/]" in sent
    check_obeys_nobody(sent)


def test_of_a_long_text_of_a_file_no_more_is_escaped_than_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    escaped = []
    monkeypatch.setattr(commands, "one_line", lambda text: escaped.append(len(text)) or one_line(text))
    assert commands._short("\x1b" * 100_000) == "\\x1b" * 24 + "\\x1" + "…" and escaped == [1000]
