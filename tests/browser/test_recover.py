"""A device that is lost at any moment is a typed error, and the conversation goes on when the model is loaded again."""

from __future__ import annotations

import hashlib
import json

import pytest
from browser_page import Page
from unreliable_server import Fault, UnreliableServer

from tests.splits import split
from tests.tiny import TinyLlama, tiny_llama

PROMPT = [5, 17, 99, 3, 42, 8, 120, 77, 31, 64, 12]

HEAD = """
from llamaweb.errors import DeviceLostError, LlamaWebError
from llamaweb.gpu.device import Device
from llamaweb.llama import Llama

OPTIONS = {"n_ctx": 40, "n_ubatch": 1, "tune": "off"}  # one token a batch takes the fewest kernels

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


# Where the model comes from, when its device is lost, and how it is recovered.
CASES = [("bytes", "decoding", "off"), ("URL", "prefilling", "auto"), ("shards of a hub", "decoding", "off")]


@pytest.mark.parametrize(("way", "moment", "recover"), CASES)
def test_the_conversation_goes_on_behind_a_lost_device_and_no_server_is_asked(
    page: Page, server: UnreliableServer, model: bytes, way: str, moment: str, recover: str
) -> None:
    lose = """
import builtins
from llamaweb import cache

await cache.clear()
if hub:
    llm = await Llama.from_pretrained("a/b", "*.gguf", endpoint=hub, recover=recover, **OPTIONS)
else:
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
builtins.lost_model = llm, rest, said
return right, said
"""
    go_on = """
import builtins
llm, rest, said = builtins.__dict__.pop("lost_model")
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
return found, held, device.live_bytes
"""
    files = split(model, 2, "tiny") if way == "shards of a hub" else {"tiny.gguf": model}
    urls = [server.url(f"a/b/resolve/main/{name}", data) for name, data in files.items()]
    sums = [hashlib.sha256(data).hexdigest() for data in files.values()]
    siblings = [{"rfilename": name, "lfs": {"sha256": sha256}} for name, sha256 in zip(files, sums, strict=True)]
    server.url("api/models/a/b/revision/main", json.dumps({"siblings": siblings}).encode())
    source = {"model": urls[0] if way == "URL" else model, "hub": server.base if way == "shards of a hub" else None}
    how = {"prompt": PROMPT, "recover": recover}
    right, said = page.run(HEAD + lose, moment=moment, **source, **how)
    assert "was lost" in said and "recover()" in said
    for file in server.files.values():
        file.always = Fault()
        file.requests.clear()
    found, held, left = page.run(HEAD + go_on, **how)
    assert len(right) == 12 and found == right
    assert held == (0, True) and left == 0
    assert not any(file.requests for file in server.files.values())


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
    patched = "from llamaweb.gpu import trials\nkept = trials.candidates\ntrials.candidates = lambda *a: kept(*a)[:2]\n"
    work = patched + "try:\n" + "\n".join("    " + line for line in work.strip().splitlines())
    said, left = page.run(HEAD + work + "\nfinally:\n    trials.candidates = kept\n", model=model)
    assert set(said) == {"opened", "weights", "tuning", "pipelines"} and left == [0] * 4
    assert all("was lost" in (sentence or "") for sentence in said.values()), said
    assert all(
        "with a smaller n_ctx or a memory_budget" in said[moment] for moment in ("weights", "tuning", "pipelines")
    )


@pytest.mark.parametrize("told", ["a version", "nothing"])
def test_a_file_that_has_changed_since_is_not_taken_and_the_text_so_far_is_not_lost(
    page: Page, server: UnreliableServer, model: bytes, told: str
) -> None:
    work = """
from llamaweb.errors import ModelChangedError

async def refused(awaitable):
    try:
        await awaitable
    except ModelChangedError as error:
        return str(error)

if stage == "lost":
    llm = await Llama.load(url, cache=False, recover="auto", **OPTIONS)
    await take(llm, prompt, 6)
    await lost(take(llm, prompt, 6, lose=3))
    import builtins
    builtins.lost_model = llm, llm.conversation, llm.detokenize(llm.conversation)
    return
import builtins
llm, conversation, text = builtins.lost_model
if stage == "changed":
    said = [await refused(llm.recover()), await refused(take(llm, prompt, 2))]
    kept = llm.conversation == conversation and llm.detokenize(llm.conversation) == text
    return said, kept, llm._executor.device.live_bytes
await take(llm, conversation, 2)
await llm.close()
return len(llm.tokens)
"""
    # Other weights in another version, or another vocabulary of which the server tells nothing.
    versions = ({"ETag": '"1"'}, {"ETag": '"2"'}) if told == "a version" else ({}, {})
    other = model[:-1] + b"x" if told == "a version" else model.replace(b"the", b"eht", 1)
    assert len(other) == len(model) and other != model
    how = {"url": server.url("changing.gguf", model, headers=versions[0]), "prompt": PROMPT}
    page.run(HEAD + work, stage="lost", **how)
    server.url("changing.gguf", other, headers=versions[1])
    said, kept, held = page.run(HEAD + work, stage="changed", **how)
    assert all("load it anew with Llama.load" in (sentence or "") for sentence in said), said
    assert kept and held == 0
    server.url("changing.gguf", model, headers=versions[0])
    assert page.run(HEAD + work, stage="back", **how) == 2


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


@pytest.mark.parametrize("recover", ["auto", "off"])
def test_a_recovery_that_failed_is_tried_again_and_one_under_way_is_waited_for(
    page: Page, model: bytes, recover: str
) -> None:
    work = """
import asyncio

llm = await Llama.load(model, recover=recover, **OPTIONS)
await take(llm, prompt, 6)
right, opened, said = llm.tokens, Device.open, []

async def open():
    device = await opened()
    device.handle.destroy()
    return device

Device.open = open
try:
    said.append(await lost(llm.recover()))  # of a device that was sound
finally:
    Device.open = opened
if recover == "off":
    try:
        await take(llm, prompt, 2)
    except LlamaWebError as error:
        said.append(str(error))
    await llm.recover()
await take(llm, prompt, 6)
found = [llm.tokens]
recovering = asyncio.ensure_future(llm.recover())
await asyncio.sleep(0)
await take(llm, prompt, 6)
await recovering
device = llm._executor.device
await llm.close()
return said, [right] * 2 == [*found, llm.tokens], device.live_bytes
"""
    said, same, left = page.run(HEAD + work, model=model, prompt=PROMPT, recover=recover)
    assert "was lost" in said[0] and same and left == 0
    assert recover == "auto" or "begin again with recover()" in said[1]
