"""The package as a stranger installs it: its wheel, without extras, in an environment that has nothing yet."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import llamaweb
from tests.models import smollm2_path

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment in which the wheel of this checkout is installed."""
    folder = tmp_path_factory.mktemp("install")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(pip, check=True)
    [wheel] = folder.glob("llamaweb-*.whl")
    venv.create(folder / "fresh", with_pip=True)
    python = folder / "fresh" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", str(wheel)], check=True, cwd=folder)
    return python


def test_the_installed_command_runs_a_model_with_nothing_in_its_caches(python: Path, tmp_path: Path) -> None:
    # Only the default model, whose tokenizer is taken, is there: 98 MB need not be fetched once more.
    models = tmp_path / "llamaweb" / "models"
    models.mkdir(parents=True)
    (models / smollm2_path().name).symlink_to(smollm2_path())
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"XDG_CACHE_HOME": str(tmp_path)}
    command = [python.parent / "llamaweb", "run", "synthetic:tiny", "-p", "hello", "--max-tokens", "4", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert 1 <= len(json.loads(done.stdout)["tokens"]) <= 4
    assert any((tmp_path / "llamaweb").glob("pyodide-*"))


def test_the_installed_package_tells_what_it_is(python: Path) -> None:
    code = "import importlib.metadata, json; print(json.dumps(importlib.metadata.metadata('llamaweb').json))"
    told = json.loads(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert told["version"] == llamaweb.__version__
    assert told["license_expression"] == "MIT" and "LICENSE" in told["license_file"]
    assert told["author"] == "LlamaWeb contributors" and told["keywords"] and told["classifier"]
    done = subprocess.run([python, "-m", "llamaweb", "--help"], capture_output=True, text=True, cwd=python.parent)
    assert done.returncode == 0 and "llamaweb" in done.stdout
