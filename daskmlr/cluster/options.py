"""Keyword arguments of cluster classes: from YAML, with encryption unless they say otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import yaml
from distributed import Security

from daskmlr.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

LOOPBACK = "127.0.0.1:0"
PARTS = ("cert", "key")


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


def encrypted(
    options: dict[str, Any], credentials: Callable[[], Security] | None = None
) -> dict[str, Any]:
    """Let a cluster use TLS, unless its options name a protocol or a security of their own.

    YAML can hold true, false, or the arguments of `distributed.Security`, for the latter.

    Parameters
    ----------
    options : dict
        Keyword arguments of the class.
    credentials : callable, optional
        Gives certificates where neither the options nor Dask's configuration name any; by default
        new ones in memory.
    """
    options = dict(options)
    asked = options.get("security")
    if asked is False:
        del options["security"]
    elif isinstance(asked, dict):
        options["security"] = Security(**asked)
    elif asked is True or (asked is None and "protocol" not in options):
        make = Security if configured() else credentials or Security.temporary
        options |= {"security": make(), "protocol": "tls://"}
    return options


def configured() -> bool:
    """Whether Dask's configuration names certificates."""
    return dask.config.get("distributed.comm.tls.ca-file") is not None


def as_pem(temporary: Security) -> str:
    """Write the key and the certificate that all processes of one run share into one text."""
    return str(temporary.tls_worker_key + temporary.tls_worker_cert)


def of_pem(file: str) -> dict[str, Any]:
    """Return arguments of `distributed.Security` for a file of `as_pem`."""
    parts = [f"{role}_{part}" for role in ("client", "scheduler", "worker") for part in PARTS]
    return {"require_encryption": True, **{f"tls_{part}": file for part in ["ca_file", *parts]}}
