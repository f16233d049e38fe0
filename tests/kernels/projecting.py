"""Tasks of a block in a subspace, for the tests of what is done there."""

from __future__ import annotations

import numpy as np

from daskmlr.kernels.projected import ProjectedTasks, projected_from_block
from tests.kernels.drawing import plain_frame


def basis_of(seed, d, r) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng([seed, 5]).normal(size=(d + 1, r)))[0]


def project(block, frame=None, basis=None, positions=None, *, n_batches=1) -> ProjectedTasks:
    d = block.n_features
    if positions is None:
        positions = np.arange(block.first_task, block.first_task + block.n_tasks)
    return projected_from_block(
        block,
        plain_frame(d) if frame is None else frame,
        np.eye(d + 1) if basis is None else basis,
        positions,
        n_batches=n_batches,
    )
