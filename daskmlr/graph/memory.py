"""Memory that this process may use."""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from distributed.system import MEMORY_LIMIT

if TYPE_CHECKING:
    from collections.abc import Iterator

CGROUPS = Path("/sys/fs/cgroup")


@lru_cache(maxsize=1)
def memory_limit() -> int:
    """Return the memory of the machine in bytes, or what this process may have of it if less.

    Dask looks at the cgroup at the root of the file system, as in a container; the jobs of SLURM
    and the services of systemd are in one below. Page cache counts there too.
    """
    return min([int(MEMORY_LIMIT), *_limits(Path("/proc/self/cgroup"), CGROUPS)])


def _limits(membership: Path, root: Path) -> Iterator[int]:
    """Yield the limits of the cgroups that a process is in, and of those above them."""
    with suppress(OSError):  # no Linux
        for line in membership.read_text().splitlines():
            _, controllers, name = line.split(":", 2)
            if controllers == "":
                base, file = root, "memory.max"
            elif "memory" in controllers.split(","):
                base, file = root / "memory", "memory.limit_in_bytes"
            else:
                continue
            place = Path(name.lstrip("/"))
            for group in (place, *place.parents):
                with suppress(OSError, ValueError):  # none here; or "max"
                    yield int((base / group / file).read_text())
