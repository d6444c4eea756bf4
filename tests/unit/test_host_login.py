"""The local server's login: nobody without its secret sees anything, and nobody is told the secret."""

from __future__ import annotations

import asyncio
import os
import stat
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from yarl import URL

from llamaweb.host import kept
from llamaweb.host.login import COOKIE, FRAMED, REFUSAL, Login, kept_login
from llamaweb.host.server import Site, serving

MODEL, TEXT = b"GGUF and secret weights", b"a secret text"


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return kept.cache_root()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "page.html").write_text("of a peer")
    (tmp_path / "m.gguf").write_bytes(MODEL)
    return Site(folder, {"m.gguf": tmp_path / "m.gguf"}, {"text": TEXT}, {"peer": folder}, default="m.gguf")


def test_without_the_login_every_address_answers_with_one_sentence_alone(site: Site) -> None:
    async def body() -> None:
        async with serving(site) as server, aiohttp.ClientSession() as session:
            secret, folder = server.login.secret, server.login.folder
            paths = ["", "model/m.gguf", "file/text", "config.json", "bridge", "bridge.html", "index.html", "none"]
            for base in (f"{server.origin}/", f"{server.url}/"):
                for path in [*paths, "folder/peer/page.html", f"?token={secret[1:]}", "?token=", "?token=%ff%00"]:
                    for cookie in (None, "", secret[1:], secret + "x", folder[1:]):
                        headers = {} if cookie is None else {"Cookie": f"{COOKIE}={cookie}"}
                        async with session.get(base + path, headers=headers, allow_redirects=False) as response:
                            assert (response.status, await response.text()) == (403, REFUSAL), (path, cookie)
                            assert not {"Set-Cookie", "Location", "Refresh"} & set(response.headers)
                            assert response.headers["Connection"] == "close"
            assert REFUSAL.count(".") == REFUSAL.count("\n") == 1 and "open the one" in REFUSAL

    asyncio.run(body())


def test_the_printed_address_gives_a_cookie_for_a_folder_that_nobody_else_knows_and_drops_the_secret(
    site: Site,
) -> None:
    async def body() -> None:
        jar = aiohttp.CookieJar(unsafe=True)
        async with serving(site) as server, aiohttp.ClientSession(cookie_jar=jar) as session:
            for address, place in (
                (server.address, f"{server.login.folder}/"),
                (server.bridge_address, f"{server.login.folder}/bridge.html"),
                (f"{server.url}x/bridge.html?token={server.login.secret}", f"{server.login.folder}/"),
                (f"{server.origin}//attacker.example/?token={server.login.secret}", f"{server.login.folder}/"),
            ):
                async with session.get(address, allow_redirects=False) as response:
                    assert response.status == 303 and response.headers["Location"] == place
                    told = response.headers["Set-Cookie"].split("; ")
                assert told[0] == f"{COOKIE}={server.login.secret}"
                assert {"HttpOnly", "SameSite=Strict", f"Path={server.login.folder}/"} <= set(told)
            for path, data in (("model/m.gguf", MODEL), ("file/text", TEXT)):
                async with session.get(f"{server.url}/{path}") as response:
                    assert response.status == 200 and await response.read() == data
            async with session.get(f"{server.url}/bridge", headers={"Origin": server.origin}) as response:
                assert response.status == 403  # there is none
            # What a browser sends to any other server of this machine does not hold it.
            assert not jar.filter_cookies(URL(f"{server.origin}/model/m.gguf"))
            assert server.login.secret not in server.url and len(server.login.folder) > 20

    asyncio.run(body())


def test_a_link_of_another_site_is_asked_for_once_more_which_then_brings_the_cookie(site: Site) -> None:
    async def body() -> None:
        async with serving(site) as server, aiohttp.ClientSession() as session:
            for place, again in (("cross-site", "0"), ("same-site", None), ("none", None)):
                async with session.get(f"{server.url}/", headers={"Sec-Fetch-Site": place}) as response:
                    assert (response.status, response.headers.get("Refresh")) == (403, again)

    asyncio.run(body())


def test_a_cookie_for_frames_of_other_sites_is_given_only_where_one_was_allowed(site: Site) -> None:
    async def cookies(site: Site) -> list[str]:
        async with serving(site) as server, aiohttp.ClientSession() as session:
            async with session.get(server.address, allow_redirects=False) as response:
                told = response.headers.getall("Set-Cookie")
            headers = {"Cookie": f"{FRAMED}={server.login.secret[:-1]}"}
            async with session.get(f"{server.url}/file/text", headers=headers) as response:
                assert response.status == 403
            return [each for each in told if server.login.secret in each and f"Path={server.login.folder}/" in each]

    (strict,) = asyncio.run(cookies(site))
    assert "SameSite=Strict" in strict
    framed, again = sorted(asyncio.run(cookies(replace(site, frames=("https://site.example",)))))
    assert "SameSite=Strict" in again and framed.startswith(f"{FRAMED}=")
    assert {"HttpOnly", "Secure", "SameSite=None", "Partitioned"} <= set(framed.split("; "))


def test_another_servers_secret_is_not_this_ones(site: Site) -> None:
    assert len({Login().secret for _ in range(9)} | {Login().folder for _ in range(9)}) == 18
    assert Login("a").folder != Login("b").folder and Login("a").folder == Login("a").folder


def test_a_kept_secret_is_the_same_again_and_nobody_elses_to_read(cache: Path) -> None:
    before = os.umask(0)
    try:
        login = kept_login()
    finally:
        os.umask(before)
    (file,) = cache.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and file.read_text() == login.secret
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert kept_login().secret == login.secret and kept_login().folder == login.folder
    assert [each.kind for each in kept.kept()] == ["login"]
    kept.remove(["login"])
    assert kept_login().secret != login.secret


@pytest.mark.parametrize("harm", ["others may read it", "empty", "short", "long", "a link"])
def test_a_secret_that_others_may_know_or_that_is_none_is_not_used(harm: str, cache: Path, tmp_path: Path) -> None:
    known = kept_login().secret
    file = cache / "login"
    if harm == "others may read it":
        file.chmod(0o640)
    elif harm == "a link":
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    else:
        file.write_text({"empty": "", "short": known[:20], "long": known + "\n"}[harm])
    login = kept_login()
    assert login.secret != known and len(login.secret) == 43
    assert kept_login().secret == login.secret
    assert stat.S_IMODE(file.lstat().st_mode) == 0o600 and [each.name for each in cache.iterdir()] == ["login"]


def test_where_nothing_can_be_kept_the_secret_is_a_new_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    first, second = kept_login(), kept_login()
    assert len(first.secret) == len(second.secret) == 43 and first.secret != second.secret
