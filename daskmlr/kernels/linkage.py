"""Linkage of the largest tasks in the subspace: the paper's way to first components."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import scipy.cluster.hierarchy
import scipy.spatial.distance

from daskmlr.errors import InputError
from daskmlr.kernels.clustering import Clustering
from daskmlr.kernels.projected import maximise

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from daskmlr.kernels.projected import ProjectedTasks


def cluster_by_linkage(
    tasks: ProjectedTasks, n_components: int, *, method: Literal["single", "average"] = "single"
) -> Clustering:
    """Algorithm 3 of Kong et al. (2020): median-of-batches distances, then linkage.

    For tasks i and j, the product over each batch of the differences of their two half-means is
    unbiased for ``|w_i - w_j|^2``; the median over the batches is robust to heavy tails.

    Parameters
    ----------
    tasks : ProjectedTasks
        With at least one batch in `halves`.
    n_components : int
    method : {"single", "average"}
        Linkage; "single" is the paper's, "average" that of its authors' experiments.

    Raises
    ------
    InputError
        If there are fewer tasks than components, or no batch.
    """
    labels = linkage_labels(tasks.halves, n_components, method=method)
    shares = np.eye(n_components)[labels]
    return Clustering(maximise(tasks, shares), np.array([]), agreed=True)


def linkage_labels(
    halves: NDArray[np.float64],
    n_components: int,
    *,
    method: Literal["single", "average"] = "single",
) -> NDArray[np.int64]:
    """Labels of the tasks by linkage of their median-of-batches distances, shape (n,).

    Parameters
    ----------
    halves : ndarray of shape (n, n_batches, 2, r)
    n_components : int
    method : {"single", "average"}

    Raises
    ------
    InputError
        If there are fewer tasks than components, or no batch.
    """
    n, n_batches = halves.shape[:2]
    if n < n_components:
        raise InputError(f"{n_components} components need at least as many tasks, got {n}")
    if n_batches == 0:
        raise InputError("linkage needs n_batches of at least 1, got 0: no distance to take")
    products = np.empty((n_batches, n, n))
    for batch, (first, second) in enumerate(halves.transpose(1, 2, 0, 3)):
        inner = first @ second.T
        own = np.diag(inner)
        products[batch] = own[:, None] + own[None, :] - inner - inner.T
    distance = np.abs(np.median(products, axis=0))
    np.fill_diagonal(distance, 0)
    condensed = scipy.spatial.distance.squareform(distance, checks=False)
    tree = scipy.cluster.hierarchy.linkage(condensed, method=method)
    labels = scipy.cluster.hierarchy.fcluster(tree, n_components, criterion="maxclust")
    return labels.astype(np.int64) - 1
