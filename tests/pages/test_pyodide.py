"""The releases of Pyodide that `--pyodide` chooses from, in a module worker of a real browser.

What runs on all of them needs no NumPy, which a registry has for some releases only; a model answers on those, and
where Pyodide's CDN can be reached on the others too.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llamaweb.host import distribution, fetch
from llamaweb.host.browser import BrowserChoice
from llamaweb.host.distribution import CDN, RELEASES, Pyodide
from llamaweb.host.page_wheel import page_wheel
from llamaweb.host.report import silent
from llamaweb.host.server import Site, serving
from tests import driver as drivers

WORKER = """
import { loadPyodide } from "./pyodide.mjs";

onmessage = async ({ data: [wheel, code] }) => {
  try {
    const pyodide = await loadPyodide({ indexURL: new URL(".", self.location).href });
    pyodide.unpackArchive(await (await fetch(`../${wheel}`)).arrayBuffer(), "wheel");
    postMessage({ value: await pyodide.runPythonAsync(code) });
  } catch (error) {
    postMessage({ error: String(error) });
  }
};
"""
IN_WORKER = """
const [wheel, code, done] = arguments;
const worker = new Worker("pyodide/worker.mjs", { type: "module" });
worker.onmessage = ({ data }) => done(data);
worker.onerror = (event) => done({ error: event.message });
worker.postMessage([wheel, code]);
"""


def release(name: str) -> Pyodide:
    return Pyodide(**distribution._PINS["pyodide"][name])


async def in_module_worker(folder: Path, choice: BrowserChoice, code: str) -> Any:
    """What Python code gives, as JSON, in a worker of a page that is served Pyodide from the folder."""
    (folder / "worker.mjs").write_text(WORKER)
    async with serving(Site(folder)) as server:
        driver = await asyncio.to_thread(drivers.start, choice)
        try:
            await asyncio.to_thread(driver.get, f"{server.url}/config.json?token={server.login.secret}")
            arguments = (IN_WORKER, page_wheel().file_name, code)
            found = await asyncio.to_thread(driver.execute_async_script, *arguments)
        finally:
            await asyncio.to_thread(drivers.stop, driver)
    assert "error" not in found, found
    return json.loads(found["value"])


async def smoke() -> str:
    """What a page needs below the numbers: the GPU, the browser's storage, sources, and blocking calls."""
    import importlib
    import json
    import sys
    from pathlib import Path

    import js

    import llamaweb
    from llamaweb.files.blob_source import BlobSource
    from llamaweb.files.storage import load_json, save_json
    from llamaweb.gpu.device import Device
    from llamaweb.javascript import js_object, wait, wasm_heap_bytes

    files = sorted(Path(llamaweb.__file__).parent.rglob("*.py"))
    for file in files:
        compile(file.read_text(), str(file), "exec")
    for name in ("errors", "model.source", "kernels.cache", "kernels.io", "profile", "progress", "text_table"):
        importlib.import_module(f"llamaweb.{name}")

    device = await Device.open()
    async with device.errors("copying"):
        given = device.buffer("given", 16, "COPY_DST", "COPY_SRC")
        taken = device.buffer("taken", 16, "COPY_DST", "MAP_READ")
        device.handle.queue.writeBuffer(given, 0, js.Uint8Array.new(js_object([*range(16)])))
        encoder = device.handle.createCommandEncoder()
        encoder.copyBufferToBuffer(given, 0, taken, 0, 16)
        device.handle.queue.submit(js_object([encoder.finish()]))
        await device.wait(taken.mapAsync(1))
    copied = list(taken.getMappedRange().to_bytes())
    profile = device.profile
    device.close()

    await save_json("smoke.json", {"kept": [1, 2]})
    blob = js.Blob.new(js_object(["the king is on the hill"]))
    return json.dumps(
        {
            "python": list(sys.version_info[:2]),
            "files": len(files),
            "numpy": "numpy" in sys.modules,
            "copied": copied,
            "adapter": profile.name,
            "kept": await load_json("smoke.json"),
            "blob": (await BlobSource(blob).read(4, 4)).decode(),
            "blocking": wait(BlobSource(blob).size()),
            "heap": wasm_heap_bytes(),
        }
    )


@pytest.mark.parametrize("name", RELEASES)
def test_every_release_starts_in_a_module_worker_and_reaches_the_gpu_and_the_storage(
    name: str, choice: BrowserChoice, tmp_path: Path
) -> None:
    core, scratch = tmp_path / "core", tmp_path / "scratch"
    core.mkdir()
    scratch.mkdir()
    distribution._core(core, scratch, release(name), None, silent)
    found = asyncio.run(in_module_worker(core, choice, f"{inspect.getsource(smoke)}\nawait smoke()"))
    assert found["python"] == {"0.29": [3, 13], "314": [3, 14]}[name]
    assert found["files"] > 60 and not found["numpy"] and found["heap"] > 1e7
    assert found["copied"] == [*range(16)] and found["adapter"]
    assert found["kept"] == {"kept": [1, 2]} and found["blob"] == "king" and found["blocking"] == 23


@pytest.mark.parametrize("name", RELEASES)
def test_a_model_answers_on_every_release_whose_parts_can_be_had_and_the_others_say_why_not(
    name: str, tiny_model: Path
) -> None:
    options = ["-p", "the", "--max-tokens", "2", "--pyodide", name, "--json"]
    command = [sys.executable, "-m", "llamaweb", "run", str(tiny_model), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    told = json.loads(done.stdout)
    pyodide = release(name)
    if pyodide.numpy or fetch.answers(f"{CDN}/npm/pyodide@{pyodide.version}/package.json"):
        assert done.returncode == 0 and 1 <= len(told["tokens"]) <= 2
    else:
        assert done.returncode == 1
        assert told["error"]["message"].startswith(f"Pyodide {pyodide.version} needs its NumPy, which Pyodide's CDN")
