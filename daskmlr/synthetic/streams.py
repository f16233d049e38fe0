"""Counter-based random streams: what is drawn depends on what it is for, never on when."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np

from daskmlr.errors import InputError


class Stream(IntEnum):
    """What a random stream is for; the numbers are part of what a seed means."""

    COEF = 0
    INTERCEPT = 1
    SIZE = 2
    LABEL = 3
    COVARIATE = 4
    NOISE = 5


def generator(random_state: int, stream: Stream, *position: int) -> np.random.Generator:
    """Return the random numbers of one stream at one position, whatever was drawn before."""
    seed = whole_number(random_state, "random_state", at_least=0)
    key = np.random.SeedSequence(seed, spawn_key=(stream, *position))
    return np.random.Generator(np.random.Philox(key))


def whole_number(value: Any, name: str, *, at_least: int = 1) -> int:
    """Return an integer that is large enough."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < at_least:
        raise InputError(f"{name} must be an integer of at least {at_least}, not {value!r}")
    return int(value)
