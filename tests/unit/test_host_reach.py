"""Which origins a page must reach for a model at an address."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from llamaweb.host import inward, reach


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


@pytest.mark.parametrize("name", ["10.0.0.1", "192.168.1.1", "169.254.1.1", "[::1]", "[::ffff:10.0.0.1]", "127.9.9.9"])
def test_a_public_address_does_not_open_this_machine_or_its_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    public = inward.is_public
    monkeypatch.setattr(inward, "is_public", lambda address: address == "127.0.0.1" or public(address))
    assert asyncio.run(led("127.0.0.1", name)) == ["127.0.0.1"]


def test_the_hubs_are_known_and_one_that_does_not_answer_is_its_own_alone() -> None:
    for hub in ("https://huggingface.co/a/b/resolve/main/c.gguf", "https://hf.co/a"):
        assert set(asyncio.run(reach.origins(hub))) == {
            "https://hf.co",
            "https://huggingface.co",
            "https://*.huggingface.co",
            "https://*.hf.co",
        }
    assert asyncio.run(reach.origins("http://me:secret@127.0.0.1:9/Model.gguf")) == ("http://127.0.0.1:9",)


def test_a_server_that_answers_nothing_is_left_to_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> tuple[str, ...]:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        async with server:
            return await reach.origins(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/m.gguf")

    monkeypatch.setattr(reach, "_SECONDS", 0.05)
    assert len(asyncio.run(ask())) == 1
