"""Which origins a page must reach for a model at an address."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from llamaweb.host import reach


async def led(*names: str) -> list[str]:
    """The origins for an address of one server that leads to the next and so on, each under the name given."""
    runner = web.AppRunner(app := web.Application())

    async def answer(request: web.Request) -> web.Response:
        at = int(request.path[1:])
        if at + 1 < len(names):
            raise web.HTTPFound(f"http://{names[at + 1]}:{runner.addresses[0][1]}/{at + 1}")
        return web.Response(body=b"GGUF")

    app.router.add_get("/{at}", answer)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    try:
        found = await reach.origins(f"http://{names[0]}:{port}/0?secret=1")
    finally:
        await runner.cleanup()
    return [each.removeprefix("http://").removesuffix(f":{port}") for each in found]


def test_they_are_its_own_and_those_that_it_leads_to() -> None:
    assert asyncio.run(led("127.0.0.1")) == ["127.0.0.1"]
    assert asyncio.run(led("127.0.0.1", "localhost", "127.0.0.1")) == ["127.0.0.1", "localhost"]


def test_a_public_address_does_not_open_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    near = reach._is_near
    monkeypatch.setattr(reach, "_is_near", lambda origin: "127.0.0.1" not in origin and near(origin))
    assert asyncio.run(led("127.0.0.1", "localhost")) == ["127.0.0.1"]
    for host in (
        "localhost",
        "a.localhost",
        "127.0.0.1",
        "127.9.9.9",
        "10.0.0.1",
        "192.168.1.1",
        "169.254.1.1",
        "[::1]",
    ):
        assert near(f"http://{host}:1")
    assert not near("https://example.org") and not near("https://1.1.1.1") and not near("https://notlocalhost")


def test_the_hubs_are_known_and_one_that_does_not_answer_is_its_own_alone() -> None:
    for hub in ("https://huggingface.co/a/b/resolve/main/c.gguf", "https://hf.co/a"):
        assert set(asyncio.run(reach.origins(hub))) == {
            "https://hf.co",
            "https://huggingface.co",
            "https://*.huggingface.co",
            "https://*.hf.co",
        }
    assert asyncio.run(reach.origins("http://me:secret@127.0.0.1:9/Model.gguf")) == ("http://127.0.0.1:9",)
