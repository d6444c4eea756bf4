"""The package as a wheel for the page: made from what is imported here, checkout or installed, in milliseconds."""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import llamaweb
from llamaweb.assets import asset_dir

# Not for the page: the host side, and what a browser fetches by itself.
_LEFT_OUT = ("host", "demo", "__pycache__")


@dataclass(frozen=True)
class PageWheel:
    """A wheel in memory; `digest` changes with its content."""

    file_name: str
    data: bytes
    digest: str


def page_wheel() -> PageWheel:
    """The wheel of the running package, without the parts that only the host needs."""
    version = llamaweb.__version__
    info = f"llamaweb-{version}.dist-info"
    files = _files(Path(llamaweb.__file__).parent, "llamaweb")
    files |= _files(asset_dir("wgsl"), "llamaweb/wgsl")
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: llamaweb\nVersion: {version}\n".encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: llamaweb\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"]).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in files.items():
            out.writestr(zipfile.ZipInfo(name), data)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()[:16]
    return PageWheel(f"llamaweb-{version}-py3-none-any.whl", buffer.getvalue(), digest)


def _files(folder: Path, prefix: str) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {
        f"{prefix}/{path.relative_to(folder).as_posix()}": path.read_bytes()
        for path in paths
        if not set(path.relative_to(folder).parts[:-1]) & set(_LEFT_OUT)
    }
