"""A device that is lost at any moment is a typed error, and the conversation goes on when the model is loaded again."""

from __future__ import annotations

import pytest
from browser_page import Page

from tests.tiny import TinyLlama, tiny_llama

PROMPT = [5, 17, 99, 3, 42, 8, 120, 77, 31, 64, 12]

HEAD = """
from llamaweb.errors import DeviceLostError, LlamaWebError
from llamaweb.gpu.device import Device
from llamaweb.llama import Llama

OPTIONS = {"n_ctx": 40, "n_ubatch": 4, "tune": "off"}

async def take(llm, tokens, n, lose=0):
    # Streams an answer of n tokens; the device is lost before the first of them that is numbered `lose`
    pieces = llm.stream(tokens, max_tokens=n, temperature=0, ignore_eos=True)
    async for _ in pieces:
        if lose and len(llm.tokens) >= lose:
            llm._executor.device.handle.destroy()

async def lost(awaitable):
    try:
        await awaitable
    except DeviceLostError as error:
        return str(error)

def lose_in_prefill(llm):
    run = llm._executor.run
    def run_and_lose(*args, **options):
        run(*args, **options)
        llm._executor.device.handle.destroy()
    llm._executor.run = run_and_lose
"""


@pytest.fixture(scope="module")
def model() -> bytes:
    return tiny_llama(TinyLlama(n_layer=1))


@pytest.mark.parametrize("moment", ["prefilling", "decoding"])
@pytest.mark.parametrize("recover", ["off", "auto"])
def test_the_conversation_goes_on_behind_a_lost_device(page: Page, model: bytes, moment: str, recover: str) -> None:
    work = """
llm = await Llama.load(model, recover=recover, **OPTIONS)
await take(llm, prompt, 12)
right = llm.tokens
if moment == "prefilling":
    lose_in_prefill(llm)
    said = await lost(take(llm, [1, *prompt], 12))
    assert llm.conversation == [1, *prompt]
    rest = prompt
else:
    said = await lost(take(llm, prompt, 12, lose=3))
    assert llm.conversation == [*prompt, *llm.tokens] and len(llm.tokens) >= 3
    rest = llm.conversation
old = llm._executor.device
if recover == "off":
    again = await lost(take(llm, prompt, 2))
    assert again == said, again
    await llm.recover()
await take(llm, rest, 12 + len(prompt) - len(rest))
found = rest[len(prompt):] + llm.tokens
device = llm._executor.device
held = (old.live_bytes, device.live_bytes == llm.memory["total"])
await llm.close()
return right, found, said, held, device.live_bytes
"""
    right, found, said, held, left = page.run(HEAD + work, model=model, prompt=PROMPT, moment=moment, recover=recover)
    assert len(right) == 12 and found == right
    assert "was lost" in said and "recover()" in said
    assert held == (0, True) and left == 0


def test_a_device_lost_at_any_moment_of_loading_is_a_typed_error(page: Page, model: bytes) -> None:
    work = """
opened, devices, said = Device.open, [], {}

async def open():
    devices.append(await opened())
    if moment == "opened":
        devices[-1].handle.destroy()
    return devices[-1]

def report(progress):
    if progress.phase == moment:
        devices[-1].handle.destroy()

Device.open = open
try:
    for moment in ("opened", "weights", "tuning", "pipelines"):
        mode = "full" if moment == "tuning" else "off"
        said[moment] = await lost(Llama.load(model, progress=report, **{**OPTIONS, "tune": mode}))
finally:
    Device.open = opened
return said, [device.live_bytes for device in devices]
"""
    patched = "from llamaweb.gpu import tuning\nkept = tuning.candidates\ntuning.candidates = lambda *a: kept(*a)[:2]\n"
    work = patched + "try:\n" + "\n".join("    " + line for line in work.strip().splitlines())
    said, left = page.run(HEAD + work + "\nfinally:\n    tuning.candidates = kept\n", model=model)
    assert set(said) == {"opened", "weights", "tuning", "pipelines"} and left == [0] * 4
    assert all("was lost" in (sentence or "") for sentence in said.values()), said


def test_a_closed_model_says_so_and_is_not_loaded_again(page: Page, model: bytes) -> None:
    work = """
llm = await Llama.load(model, recover="auto", **OPTIONS)
await llm.close()
said = []
for call in (take(llm, prompt, 2), llm.recover()):
    try:
        await call
    except LlamaWebError as error:
        said.append(str(error))
return said, llm._executor.device.live_bytes
"""
    said, left = page.run(HEAD + work, model=model, prompt=PROMPT)
    assert len(said) == 2 and all("was closed" in sentence for sentence in said) and left == 0
