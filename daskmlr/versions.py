"""What code is running: its versions and a digest of its own source."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

# Of these the bits of a result depend, too.
LIBRARIES = ("numpy", "scipy")


@lru_cache(maxsize=1)
def code_versions() -> dict[str, str]:
    """Versions of daskmlr and of what its numbers depend on, and a digest of its source files."""
    return {
        "daskmlr": version("daskmlr"),
        "source": _source_digest(Path(__file__).parent),
        **{name: version(name) for name in LIBRARIES},
    }


def _source_digest(package: Path) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0")
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()
