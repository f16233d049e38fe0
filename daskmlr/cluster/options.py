"""Keyword arguments of cluster classes: from YAML, with encryption unless they say otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask
import yaml
from distributed import Security

from daskmlr.errors import InputError

LOOPBACK = "127.0.0.1:0"


def read_options(path: str | Path | None) -> dict[str, Any]:
    """Read keyword arguments from a YAML file; none without one.

    Raises
    ------
    InputError
        If it holds anything else.
    """
    if path is None:
        return {}
    try:
        found = yaml.safe_load(Path(path).read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path} is no YAML file with options of a cluster: {error}") from error
    if not isinstance(found, dict):
        raise InputError(
            f"{path} must hold keyword arguments of the cluster's class, each `name: value`, got "
            f"a {type(found).__name__}"
        )
    return found


def needed(kind: str, n_workers: int | None) -> int:
    """Return the number of workers, which must have been given."""
    if n_workers is None:
        raise InputError(f"--cluster {kind} needs --workers N, the workers to start and to keep")
    return n_workers


def encrypted(options: dict[str, Any]) -> dict[str, Any]:
    """Let a cluster use TLS, unless its options name a protocol or a security of their own.

    YAML can hold true, false, or the arguments of `distributed.Security`, for the latter.
    """
    options = dict(options)
    asked = options.get("security")
    if asked is False:
        del options["security"]
    elif isinstance(asked, dict):
        options["security"] = Security(**asked)
    elif asked is None and "protocol" not in options:
        options |= {"security": credentials(), "protocol": "tls://"}
    return options


def credentials() -> Security:
    """Certificates that Dask's configuration names, or else new ones that end with this run."""
    if dask.config.get("distributed.comm.tls.ca-file"):
        return Security()
    return Security.temporary()
