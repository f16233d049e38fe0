"""What a process computes with: versions, and the code itself."""

from __future__ import annotations

import hashlib
import platform
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# What decides the bits of a result; processes that differ in it may not work on one.
DECISIVE = ("daskmlr", "daskmlr code", "numpy", "scipy")
PACKAGES = ("daskmlr", "numpy", "scipy", "dask", "distributed", "zarr")


@lru_cache(maxsize=1)
def environment() -> dict[str, str]:
    """Return the versions of Python and of packages here, and a digest of daskmlr's code."""
    found = {name: _version(name) for name in PACKAGES}
    major, minor, _ = platform.python_version_tuple()
    return {**found, "daskmlr code": code_digest(), "Python": f"{major}.{minor}"}


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Return a digest of the source files of the package, as this process found them first."""
    root = Path(__file__).parents[1]
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(root.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def differences(there: dict[str, str], here: dict[str, str]) -> dict[str, str]:
    """Say how another process differs from this one, by the name of what differs."""
    return {
        name: f"{name} {there.get(name, 'unknown')} instead of {here[name]}"
        for name in here
        if there.get(name) != here[name]
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
