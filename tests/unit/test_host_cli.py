"""The command line's manners: one sentence, the right exit code, and pure JSON."""

from __future__ import annotations

import errno
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from gguf import GGUFValueType

from llamaweb.errors import NoWebGPUError, UnsupportedError
from llamaweb.host import bridge, commands, distribution, foretell
from llamaweb.host.cli import build_parser, main
from llamaweb.host.output import Output
from llamaweb.host.terminal import harmless
from llamaweb.secrets import without_secrets
from tests.crafted import ARRAY, crafted
from tests.tiny import TinyLlama, tiny_llama, without_chat

WRONG = [
    ([], "required: COMMAND"),
    (["frobnicate"], "invalid choice: 'frobnicate'"),
    (["run", "--max-tokens", "0"], "'0' is not a whole number from 1 to 2147483647"),
    (["run", "--max-tokens", "9" * 30], "is not a whole number from 1"),
    (["run", "--temp", "0"], "Unrecognized arguments: --temp"),
    (["run", "--max-tokens", "many"], "'many' is not a whole number"),
    (["run", "--temperature", "nan"], "'nan' is not a number from 0 to 100"),
    (["run", "--temperature", "inf"], "'inf' is not a number from 0 to 100"),
    (["run", "--seed", str(2**32)], "'4294967296' is not a whole number from 0 to 4294967295"),
    (["run", "--top-p", "1.1"], "'1.1' is not a number from 0 to 1"),
    (["run", "-p", ""], "it is empty; give a text"),
    (["run", "-p", "a\udcffb"], "has bytes that are no text; give UTF-8"),
    (["perplexity", "--file", __file__, "--context", "1"], "'1' is not a whole number from 2"),
    (["run", "--top-p", "1.5"], "'1.5' is not a number from 0 to 1"),
    (["run", "no-such.gguf", "-p", "x"], "no file no-such.gguf"),
    (["run", "--budget", "plenty"], "'plenty' is not a size; give bytes, or a number like 900M, 2G or 1.5GiB"),
    (["run", "--budget", "2.5"], "'2.5' is not a size; give bytes"),
    (["inspect", "--budget", "0"], "'0' is no memory at all"),
    (["inspect", "no-such.gguf"], "no file no-such.gguf"),
    (["inspect", __file__], "is not a GGUF file"),
    (["tokenize", "--file", "no-such.txt"], "no file no-such.txt"),
    (["perplexity", "--file", "no-such.txt"], "no file no-such.txt"),
    (["tokenize"], "required: --file"),
    (["tokenize", "--file", "/"], "/ is a folder; give the path of a text file"),
    (["perplexity", "--file", os.devnull], "The text is empty; give one of at least two tokens"),
    (["bench", "--loading", "--peer", "wllama"], "leave out --peer"),
    (["tune", "--type-k", "q5_0"], "invalid choice: 'q5_0' (choose from"),
    (["run", "--precision", "half"], "invalid choice: 'half' (choose from"),
    (["bench", "--loading", "--profile"], "leave out --profile"),
    (["bench", "synthetic:huge"], "no synthetic model 'huge'; there are tiny, "),
    (["bench", "synthetic:tiny:Q9"], "no synthetic weights in 'Q9'; there are F32, "),
    *(
        (["serve", "--allow-frame", text], f"{without_secrets(text)!r} is no origin; give scheme, host and port alone")
        for text in (
            "*",
            "https://*.example.org",
            "https://example.org/",
            "https://example.org/page",
            "https://a.example https://b.example",
            "https://a.example;script-src *",
            "https://a.example\n",
            "https://me@a.example",
            "https://a.example:99999",
            "https://",
            "example.org",
            "'self'",
            "data:",
        )
    ),
    (["serve", "--port", "70000"], "'70000' is not a whole number from 0 to 65535"),
    (["run", "--max-tokens", "-2"], "'-2' is not a whole number from 1 to 2147483647, or -1"),
    (["run", "https://", "-p", "x"], "https:// is not an address (it names no server); check it."),
    (["run", "HTTPS://[bad", "-p", "x"], "HTTPS://[bad is not an address (the brackets in its server"),
    (["inspect", ""], "MODEL: it is empty; give a name"),
    (["tokenize", "--file", ""], "--file: it is empty; give a name"),
    (["inspect", "--svg", ""], "--svg: it is empty; give a name"),
    (["bench", "--output", ""], "--output: it is empty; give a name"),
    (["run", "--chrome", ""], "--chrome: it is empty; give a name"),
    (["inspect", "m" * 5000], "mmm… cannot be used (File name too long); check the path"),
    (["tokenize", "--file", "t" * 5000], "ttt… cannot be used (File name too long); check the path"),
    (["bench", "--output", "o" * 5000], "ooo… cannot be used (File name too long); check the path"),
    (["inspect", "http://[bad/x"], "http://[bad/x is not an address (the brackets in its server"),
    (["inspect", "http://host:port/x"], "is not an address (its port is no number from 0 to 65535); check it."),
    (["serve", "https://example.invalid/m.gguf"], "serve needs a file"),
]


@pytest.mark.parametrize(("arguments", "sentence"), WRONG, ids=lambda value: str(value)[:40])
def test_a_mistake_is_one_sentence_and_exit_code_1(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    output, errors = capsys.readouterr()
    assert output == ""
    assert sentence in errors
    assert errors.count("\n") == 1 and errors.endswith(".\n")


@pytest.mark.parametrize(("arguments", "sentence"), WRONG[2:], ids=lambda value: str(value)[:40])
def test_with_json_a_mistake_is_one_object_on_standard_output(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--json"]) == 1
    assert sentence in json.loads(capsys.readouterr().out)["error"]["message"]


def test_help_tells_every_kind_of_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "a GGUF file, an address, smollm2 or gemma3 (smollm2); or random weights: synthetic:SHAPE:FORMAT" in told


def test_an_error_keeps_its_type_in_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    async def unsupported(args: object, out: Output) -> None:
        raise UnsupportedError("The architecture mamba is not supported.")

    monkeypatch.setitem(commands.COMMANDS, "inspect", unsupported)
    assert main(["inspect", "--json"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert error == {"type": "UnsupportedError", "message": "The architecture mamba is not supported."}


def test_even_a_bug_shows_no_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    async def broken(args: object, out: Output) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.delenv("LLAMAWEB_DEBUG", raising=False)
    monkeypatch.setitem(commands.COMMANDS, "inspect", broken)
    assert main(["inspect"]) == 1
    errors = capsys.readouterr().err
    assert "ZeroDivisionError" in errors and "Traceback" not in errors and errors.count("\n") == 1


def test_what_stands_for_everything_or_anything_is_taken_as_in_python() -> None:
    args = build_parser().parse_args(["run", "--max-tokens", "-1", "--top-k", "-1", "--seed", "-1"])
    assert (args.max_tokens, args.top_k, args.seed) == (-1, -1, -1)


def test_a_folder_that_may_not_be_looked_into_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(path: Path, **_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.delenv("LLAMAWEB_DEBUG", raising=False)
    monkeypatch.setattr(Path, "stat", refused)
    for arguments in (["inspect", "closed/model.gguf"], ["tokenize", "--file", "closed/text"], ["inspect", "smollm2"]):
        assert main(arguments) == 1
        told = capsys.readouterr().err
        assert "cannot be used (Permission denied); check the path and its permissions.\n" in told
        assert told.count("\n") == 1


@pytest.mark.parametrize("json_too", [[], ["--json"]], ids=["text", "json"])
@pytest.mark.parametrize(
    ("redirection", "sentence"),
    [
        (">&-", "Standard output is closed; leave it open, or send it to a file or to /dev/null."),
        (">/dev/full", "Standard output cannot be written (No space left on device); send it elsewhere."),
        (">&- 2>&-", ""),
        ("2>/dev/full >/dev/full", ""),
    ],
)
def test_an_answer_that_nobody_can_have_is_one_sentence_and_exit_code_1(
    redirection: str, sentence: str, json_too: list[str], tmp_path: Path
) -> None:
    (tmp_path / "MODEL").write_bytes(tiny_llama())
    words = [sys.executable, "-m", "llamaweb", "inspect", "MODEL", *json_too]
    command = f"{shlex.join(words)} {redirection}"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr.strip()) == (1, sentence)


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_notes_that_nobody_can_have_take_nothing_from_the_answer(redirection: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "llamaweb", "inspect", "no-such.gguf", "--json"]
    command = f"{shlex.join(words)} {redirection}"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, stdout=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 1
    assert "no file no-such.gguf" in json.loads(done.stdout)["error"]["message"]


def test_ctrl_c_is_exit_code_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    async def interrupted(args: object, out: Output) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(commands.COMMANDS, "inspect", interrupted)
    assert main(["inspect", "--json"]) == 130
    assert json.loads(capsys.readouterr().out)["error"]["type"] == "Interrupted"


@pytest.mark.parametrize("gone", ["output", "output and errors"])
@pytest.mark.parametrize(
    "arguments", [["--help"], ["inspect", "no-such.gguf", "--json"], ["inspect", "MODEL", "--json"]]
)
def test_a_reader_that_has_gone_is_exit_code_141_without_a_word(
    arguments: list[str], gone: str, tmp_path: Path
) -> None:
    (tmp_path / "MODEL").write_bytes(tiny_llama())
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "llamaweb.host.cli", *arguments],
            stdout=writer,
            stderr=subprocess.PIPE if gone == "output" else writer,
            cwd=tmp_path,
            env={
                name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"
            },  # help waits for exit
            text=True,
        )
    finally:
        os.close(writer)
    assert done.returncode == 141
    said = [line for line in (done.stderr or "").splitlines() if "no file no-such.gguf" not in line]
    assert said == []


def test_with_json_streamed_text_and_progress_stay_off_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output(as_json=True)
    out.event({"event": "progress", "phase": "weights", "done": 1, "total": 98362432, "unit": "B"})
    out.event({"event": "text", "text": "héllo"})
    out.note("a note")
    out.result({"text": "héllo"}, "for a person")
    output, errors = capsys.readouterr()
    assert json.loads(output) == {"text": "héllo"} and output.count("\n") == 1
    assert errors == "Loading the weights (98.4 MB) …\na note\n"


def test_after_the_result_an_error_is_no_second_object(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def served(args: object, out: Output) -> None:
        out.result({"url": "http://127.0.0.1:8000"}, "")
        raise KeyboardInterrupt

    monkeypatch.setitem(commands.COMMANDS, "serve", served)
    assert main(["serve", "--json"]) == 130
    output, errors = capsys.readouterr()
    assert json.loads(output) == {"url": "http://127.0.0.1:8000"}
    assert errors == "Interrupted.\n"


def test_an_abbreviated_json_is_not_taken_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "no-such.gguf", "--jso"]) == 1
    assert "Unrecognized arguments: --jso" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "utf-16"])
def test_a_models_text_is_told_in_any_encoding(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(tiny_llama().replace(b"tiny", "tïn".encode()))

    def inspect(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "llamaweb.host.cli", "inspect", str(path), *arguments],
            capture_output=True,
            env=os.environ | {"PYTHONIOENCODING": encoding},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.decode(encoding)

    name = r"t\xefn" if encoding == "ascii" else "tïn"
    assert f"general.name: {name}\n" in inspect()
    assert json.loads(inspect("--json"))["metadata"]["general.name"] == "tïn"


def test_without_a_terminal_progress_is_one_line_for_each_step(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output()
    for done in range(5):
        out.report("Fetching numpy", done, 5, "B")
    out.report("Starting the browser")
    assert capsys.readouterr().err == "Fetching numpy (0.0 MB) …\nStarting the browser …\n"


@pytest.mark.parametrize(("pieces", "printed"), [(["one", " two"], "one two\n"), (["one\n"], "one\n"), ([], "")])
def test_an_answer_that_is_broken_off_ends_its_line(
    pieces: list[str], printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = Output()
    for piece in pieces:
        out.text(piece)
    out.error("Interrupted", "Interrupted.")
    assert capsys.readouterr() == (printed, "Interrupted.\n")


def test_a_text_of_one_token_is_told_before_a_browser_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, text = tmp_path / "model.gguf", tmp_path / "text.txt"
    model.write_bytes(tiny_llama(TinyLlama(add_bos=False)))
    text.write_text("a")
    assert main(["perplexity", str(model), "--file", str(text), "--chrome", "/no/browser"]) == 1
    assert "The text is a single token" in capsys.readouterr().err


def test_a_text_may_come_through_a_pipe(tmp_path: Path) -> None:
    model, text = tmp_path / "model.gguf", tmp_path / "text.txt"
    model.write_bytes(tiny_llama())
    text.write_bytes(b"the king\xff")

    def ids(name: str) -> list[int]:
        command = [sys.executable, "-m", "llamaweb.host.cli", "tokenize", str(model), "--file", name, "--json"]
        done = subprocess.run(command, input=text.read_bytes(), capture_output=True)
        return json.loads(done.stdout)["ids"]

    assert ids("/dev/stdin") == ids(str(text)) and len(ids(str(text))) > 3


@pytest.mark.parametrize("kept", [4, 100, -1])
def test_serve_refuses_a_model_that_is_cut_off_as_inspect_does(
    kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(distribution, "ensure_distribution", None)  # it does not come so far
    path = tmp_path / "model.gguf"
    path.write_bytes(tiny_llama()[:kept])
    said = []
    for command in ("inspect", "serve"):
        assert main([command, str(path)]) == 1
        said.append(capsys.readouterr().err)
    assert said[0] == said[1] and "model.gguf is " in said[0]


def test_without_a_gpu_it_is_said_that_gpu_may_be_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def no_page(*_: object) -> None:
        raise NoWebGPUError("This browser offers no WebGPU adapter; use another.")

    path = tmp_path / "model.gguf"
    path.write_bytes(tiny_llama())
    monkeypatch.setattr(bridge, "open_page", no_page)
    monkeypatch.setattr(distribution, "ensure_distribution", lambda report, release: tmp_path)
    monkeypatch.setattr(foretell, "_DEV", tmp_path)
    (tmp_path / "nvidia0").touch()
    for more, end in (["--gpu"], "use another, or leave out --gpu for the software adapter.\n"), ([], "use another.\n"):
        assert main(["run", str(path), "-p", "x", *more]) == 1
        assert capsys.readouterr().err.endswith(end)


@pytest.mark.parametrize("more", [["-p", "x", "--chat"], []], ids=["asked for", "by default"])
def test_that_a_model_has_no_chat_template_is_said_before_a_browser_starts(
    more: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def no_browser(*_: object, **__: object) -> None:
        raise AssertionError("a browser was started")

    path = tmp_path / "base.gguf"
    path.write_bytes(without_chat(tiny_llama()))
    monkeypatch.setattr(bridge, "open_page", no_browser)
    monkeypatch.setattr(distribution, "ensure_distribution", no_browser)
    assert main(["run", str(path), *more, "--json"]) == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["type"] == "UnsupportedError" and "has no chat template" in error["message"]


def test_inspect_plans_for_the_device_it_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "tiny.gguf"
    model.write_bytes(tiny_llama())
    found = {}
    for device in ("desktop", "any"):
        assert main(["inspect", str(model), "--device", device, "--plan", "--json"]) == 0
        found[device] = json.loads(capsys.readouterr().out)
        assert found[device]["device"] == device
    assert found["desktop"]["plan"] != found["any"]["plan"]
    assert main(["inspect", str(model), "--device", "any"]) == 0
    assert "On any WebGPU device, a context of" in capsys.readouterr().out
    assert main(["inspect", str(model), "--device", "toaster"]) == 1
    assert "invalid choice: 'toaster'" in capsys.readouterr().err


CONTROLS = "\x00\x07\x08\x1b[2J\x1b]0;owned\x07\r\x7f\x85\x9b31m\u061c\u200f\u202e\u2028\u2029\u2066"
RAW = set(CONTROLS) - set("[2J]0;owned31m")


def test_control_characters_are_shown_and_not_sent() -> None:
    assert harmless("a\x1b[2Jb\x9b\u202e\rc\x85\u2028") == "a\\x1b[2Jb\\x9b\\u202e\\rc\\x85\\u2028"
    assert harmless("one\r\ntwo\tü 日本 👩‍👩‍👧 [red]") == "one\ntwo\tü 日本 👩‍👩‍👧 [red]"
    assert not RAW & set(harmless(CONTROLS))


def test_whatever_is_said_goes_to_a_terminal_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output()
    out.report(f"Fetching {CONTROLS}")
    out.note(f"{CONTROLS}\nforged")
    out.warn(f"warned {CONTROLS}")
    out.warn(f"warned {CONTROLS}")
    out.event({"event": "warning", "message": CONTROLS})
    out.event({"event": "text", "text": f"{CONTROLS}\n\tx"})
    out.result({}, CONTROLS)
    out.error("Error", f"{CONTROLS}\nforged")
    output, errors = capsys.readouterr()
    assert not RAW & set(output + errors)
    assert errors.count("\n") == 5 and output.count("\n") == 2 and "\n\tx" in output


def test_metadata_and_errors_of_a_file_are_shown_and_not_sent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, text = tmp_path / "m.gguf", GGUFValueType.STRING
    keys = {f"x{CONTROLS}\nforged: key": (CONTROLS, text), "general.name": (CONTROLS, text)}
    keys["x.list"] = ([CONTROLS, "b"], ARRAY, text)
    path.write_bytes(crafted(keys))
    svg = tmp_path / "plan.svg"
    assert main(["inspect", str(path), "--svg", str(svg)]) == 0
    output = capsys.readouterr().out
    assert not RAW & set(output) and "\\x1b[2J" in output and "\nforged" not in output
    assert not RAW & set(svg.read_text())
    assert main(["inspect", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metadata"]["general.name"] == CONTROLS
    path.write_bytes(crafted({"general.architecture": (CONTROLS, text)}))
    assert main(["inspect", str(path)]) == 1
    assert not RAW & set(capsys.readouterr().err)


def test_names_in_progress_are_no_markup(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    out = Output()
    out.report("Fetching [bold]m[/].gguf \x1b]0;owned\x07", 1, 2)
    description = out._bars.tasks[0].description
    shown = out._bars.columns[1].render(out._bars.tasks[0]).plain
    out.clear()
    assert description == shown == "Fetching [bold]m[/].gguf \\x1b]0;owned\\x07"


def test_an_id_out_of_range_is_warned_of_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(crafted({"tokenizer.ggml.eos_token_id": (999, GGUFValueType.UINT32)}))
    assert main(["inspect", str(path)]) == 0
    told = "tokenizer.ggml.eos_token_id is 999, but the ids go from 0 to 303; 11 is taken instead.\n"
    assert capsys.readouterr().err == told


def test_inspect_refuses_a_tokenizer_that_no_page_could_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(crafted({"tokenizer.ggml.token_type": ([1] * 100, ARRAY, GGUFValueType.INT32)}))
    assert main(["inspect", str(path)]) == 1
    assert "token_type has 100 entries for 304 tokens" in capsys.readouterr().err
