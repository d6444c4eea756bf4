"""The folder that a page loads Pyodide and its packages from: assembled once from pinned parts, then kept.

The folder's name carries a hash of the pins, so that a changed pin makes a new folder; it is built beside its place
and renamed into it, so that a folder which exists is whole.
"""

from __future__ import annotations

import contextlib
import email.parser
import hashlib
import json
import os
import shutil
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from llamaweb.errors import HostError
from llamaweb.host import fetch, kept, stamps
from llamaweb.host.report import Report, silent

CDN = "https://cdn.jsdelivr.net"
_LOCK = "pyodide-lock.json"
_PINS_FILE = Path(__file__).with_name("pins.toml")
_PINS: dict[str, Any] = tomllib.loads(_PINS_FILE.read_text())
# Raise when the way of assembling changes and folders of old should not be used any more.
_RECIPE = 2


@dataclass(frozen=True)
class Pyodide:
    """A release as it is pinned: its core's files by their sha256, and NumPy as a registry has it, if one does."""

    version: str
    npm_sha256: str
    files: dict[str, str]
    numpy: dict[str, str] | None = None

    def pins(self, tests: bool) -> dict[str, str]:
        """The digests of what a distribution has as it was fetched; its lock is not, nor are wheels that were taken
        apart."""
        core = {name: sha256 for name, sha256 in self.files.items() if name != _LOCK}
        wheels = _PINS["pure"] | (_PINS["test"] if tests else {})
        return core | {f"{name}-{pin['version']}-py3-none-any.whl": pin["sha256"] for name, pin in wheels.items()}


RELEASES = tuple(_PINS["pyodide"])
DEFAULT = RELEASES[0]


def ensure_distribution(
    report: Report = silent, *, release: str = DEFAULT, tests: bool = False, cdn: str = CDN
) -> Path:
    """The folder of one of RELEASES of Pyodide, assembled on the first call; with `tests`, pytest's wheels are in it
    too.

    One that is not what was put there is assembled anew. Raises HostError, with what to do, if a part can be had from
    nowhere.
    """
    pyodide = Pyodide(**_PINS["pyodide"][release])
    key = hashlib.sha256(_PINS_FILE.read_bytes() + bytes([_RECIPE])).hexdigest()[:12]
    folder = kept.cache_root() / f"pyodide-{pyodide.version}-{key}{'-test' if tests else ''}"
    pins = pyodide.pins(tests)
    with kept.keeping():
        if folder.is_dir():
            if stamps.whole(folder, pins):
                return folder
            report("Pyodide in the cache is not what was put there; it is made anew")
            kept.delete(folder)
    if tests:
        base = ensure_distribution(report, release=release, cdn=cdn)
        return _build(folder, lambda stage: _assemble_tests(stage, base, pyodide, report))
    return _build(folder, lambda stage: _assemble(stage, pyodide, cdn, report))


def _build(folder: Path, assemble: Callable[[Path], None]) -> Path:
    with kept.keeping() as root:
        stage = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=root))
        try:
            assemble(stage)
            stage.chmod(0o755)
            try:
                stage.rename(folder)
                stamps.seal(folder)
            except OSError:
                # Another process may have been first: its folder is as good.
                if not folder.is_dir():
                    raise
        finally:
            shutil.rmtree(stage, ignore_errors=True)
    return folder


def _assemble(stage: Path, pyodide: Pyodide, cdn: str, report: Report) -> None:
    report(f"Pyodide {pyodide.version}: asking its CDN")
    online = fetch.answers(f"{cdn}/npm/pyodide@{pyodide.version}/package.json")
    if not online and pyodide.numpy is None:
        raise HostError(_only_there(pyodide))
    with _scratch(stage) as scratch:
        _core(stage, scratch, pyodide, cdn if online else None, report)
        _compiled(stage, scratch, pyodide, cdn if online else None, report)
        report("Packages for Pyodide")
        _pure(stage, scratch, _PINS["pure"])
    _write_lock(stage, f"{cdn}/pyodide/v{pyodide.version}/full/")


def _assemble_tests(stage: Path, base: Path, pyodide: Pyodide, report: Report) -> None:
    report("Test packages for Pyodide")
    for file in base.iterdir():
        try:
            os.link(file, stage / file.name)
        except OSError:
            shutil.copy(file, stage / file.name)
    with _scratch(stage) as scratch:
        _pure(stage, scratch, _PINS["test"])
    _write_lock(stage, f"{CDN}/pyodide/v{pyodide.version}/full/")


def _only_there(pyodide: Pyodide) -> str:
    return (
        f"Pyodide {pyodide.version} needs its NumPy, which Pyodide's CDN ({CDN}) has and no package registry, and the "
        f"CDN does not answer here; use --pyodide {DEFAULT}, or a network that lets it through."
    )


@contextlib.contextmanager
def _scratch(stage: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=stage.parent, prefix=".fetch-") as name:
        yield Path(name)


def _core(stage: Path, scratch: Path, pyodide: Pyodide, cdn: str | None, report: Report) -> None:
    package = f"pyodide@{pyodide.version}"
    if cdn:
        try:
            for name, sha256 in pyodide.files.items():
                fetch.download(f"{cdn}/npm/{package}/{name}", stage / name, sha256, report)
            return
        except HostError:
            report("Pyodide's CDN broke off; going on with npm")
    report(f"Pyodide {pyodide.version} from npm")
    tarball = fetch.npm_pack(package, pyodide.npm_sha256, scratch)
    fetch.unpack_members(tarball, {f"package/{name}": stage / name for name in pyodide.files})
    for name, sha256 in pyodide.files.items():
        fetch.check_sha256(stage / name, sha256)


def _compiled(stage: Path, scratch: Path, pyodide: Pyodide, cdn: str | None, report: Report) -> None:
    official = _read_lock(stage)["packages"]
    for name in ("numpy", *_PINS["compiled"]):
        if cdn:
            spec = official[name]
            url = f"{cdn}/pyodide/v{pyodide.version}/full/{spec['file_name']}"
            try:
                fetch.download(url, stage / spec["file_name"], spec["sha256"], report)
                continue
            except HostError:
                report(f"{name} is not on the CDN; going on with the registries")
        report(f"{name} for Pyodide")
        if name == "numpy":
            _numpy(stage, scratch, pyodide)
        else:
            pin = _PINS["compiled"][name]
            (wheel,) = fetch.pip_download({name: (pin["version"], pin["sha256"])}, scratch, pin["platform"])
            pure_half(wheel, stage)


def _numpy(stage: Path, scratch: Path, pyodide: Pyodide) -> None:
    pin = pyodide.numpy
    if pin is None:
        raise HostError(_only_there(pyodide))
    tarball = fetch.npm_pack(pin["npm"], pin["npm_sha256"], scratch)
    wheel = stage / Path(pin["member"]).name
    fetch.unpack_members(tarball, {pin["member"]: wheel})
    fetch.check_sha256(wheel, pin["sha256"])


def _pure(stage: Path, scratch: Path, pins: dict[str, Any]) -> None:
    wheels = fetch.pip_download({name: (pin["version"], pin["sha256"]) for name, pin in pins.items()}, scratch)
    for wheel in wheels:
        shutil.move(wheel, stage / wheel.name)


def pure_half(wheel: Path, folder: Path) -> Path:
    """The Python files of a compiled wheel as a wheel for any platform, for packages that can do without the rest."""
    name, version = wheel.name.split("-")[:2]
    target = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as out:
        for entry in source.infolist():
            if entry.filename.endswith((".py", ".typed", "METADATA")):
                out.writestr(zipfile.ZipInfo(entry.filename), source.read(entry))
            elif entry.filename.endswith("WHEEL"):
                text = "Wheel-Version: 1.0\nGenerator: llamaweb\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
                out.writestr(zipfile.ZipInfo(entry.filename), text)
            elif entry.filename.endswith("RECORD"):
                out.writestr(zipfile.ZipInfo(entry.filename), "")
    return target


def _read_lock(stage: Path) -> dict[str, Any]:
    return json.loads((stage / _LOCK).read_bytes())


def _write_lock(stage: Path, packages_url: str) -> None:
    """List the folder's wheels in its pyodide-lock.json; packages that are not here stay, as addresses of the CDN."""
    lock = _read_lock(stage)
    for package in lock["packages"].values():
        if "://" not in package["file_name"] and not (stage / package["file_name"]).exists():
            package["file_name"] = packages_url + package["file_name"]
    metadata = {wheel: _metadata(wheel) for wheel in sorted(stage.glob("*.whl"))}
    here = {canonicalize_name(message["Name"]) for message in metadata.values()}
    for wheel, message in metadata.items():
        name = canonicalize_name(message["Name"])
        lock["packages"][name] = {
            "name": name,
            "version": message["Version"],
            "file_name": wheel.name,
            "install_dir": "site",
            "package_type": "package",
            "sha256": fetch.sha256_of(wheel),
            "imports": _top_level(wheel),
            "depends": [depend for depend in _requirements(message, lock["info"]["python"]) if depend in here],
            "unvendored_tests": False,
        }
    # The lock may be a hard link into another distribution: write a new file instead of changing that one.
    (stage / _LOCK).unlink()
    (stage / _LOCK).write_text(json.dumps(lock))


def _metadata(wheel: Path) -> Any:
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return email.parser.BytesHeaderParser().parsebytes(archive.read(name))


def _requirements(message: Any, python: str) -> list[str]:
    """What a wheel needs in a page whose Python is `python`, as 3.13.2."""
    minor = python.rpartition(".")[0]
    page = {"sys_platform": "emscripten", "platform_system": "Emscripten", "python_version": minor, "extra": ""}
    found = [Requirement(line) for line in message.get_all("Requires-Dist", [])]
    return [str(canonicalize_name(r.name)) for r in found if r.marker is None or r.marker.evaluate(page)]


def _top_level(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        files = [name.split("/") for name in archive.namelist() if name.endswith((".py", ".so"))]
    names = {parts[0].removesuffix(".py") for parts in files if not parts[0].endswith((".dist-info", ".data"))}
    return sorted(names)
