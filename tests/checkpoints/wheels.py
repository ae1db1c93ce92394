"""Wheels that tests make: honest ones and hostile ones."""

from __future__ import annotations

import hashlib
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path

from scratchlm.checkpoints.catalogue import Entry, Package
from scratchlm.checkpoints.stored import Recorded

FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": bytes(range(256)) * 2000,
    "1_Pooling/config.json": b"{}",
}


def entry_for(files: Mapping[str, bytes] = FILES, version: str = "1.0") -> Entry:
    """A catalogue entry whose package carries these files below ``tiny_model/data``."""
    recorded = {name: Recorded(len(content), hashlib.sha256(content).hexdigest()) for name, content in files.items()}
    package = Package("tiny-model", version, 600_000, "tiny_model/data", recorded)
    return Entry("tiny", "somebody/tiny", "chat", "1M", "MIT", "tests", package=package)


def write_wheel(
    folder: Path,
    files: Mapping[str, bytes] = FILES,
    *,
    more: Mapping[str, bytes] | None = None,
    links: Mapping[str, str] | None = None,
) -> Path:
    """tiny_model-1.0-py3-none-any.whl with these files, others by their full names, and symbolic links."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny_model-1.0-py3-none-any.whl"
    info = "tiny_model-1.0.dist-info"
    members = {
        "tiny_model/__init__.py": b"raise SystemExit('the code of the package was run')\n",
        **{f"tiny_model/data/{name}": content for name, content in files.items()},
        **(more or {}),
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            member = zipfile.ZipInfo(name)
            member.filename = member.orig_filename = name  # also what ZipInfo would tidy up
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, content)
        for name, target in (links or {}).items():
            member = zipfile.ZipInfo(name)
            member.create_system, member.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
            archive.writestr(member, target)
        archive.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in [*members, f"{info}/RECORD"]))
    return path
