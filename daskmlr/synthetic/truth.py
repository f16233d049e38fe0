"""The truth behind synthetic tasks: how it is drawn, and how it is kept beside their store."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import scipy.linalg

from daskmlr.errors import InputError
from daskmlr.storage.groups import load_group, save_group
from daskmlr.storage.location import locate
from daskmlr.synthetic.streams import Stream, generator, whole_number

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

KIND = "truth of simulated tasks"
TRUTH_FORMAT = 1
ARRAYS = ("coef", "intercept", "noise_variance", "weights", "feature_mean")
MAX_COMPONENTS = np.iinfo(np.int16).max


@dataclass(frozen=True)
class MixtureTruth:
    """The mixture that tasks are drawn from.

    Task ``i`` has label ``z ~ weights``; each of its examples has ``x ~ N(mean, Sigma)`` and
    ``y = intercept_z + coef_z . x + e``, ``e`` of variance ``noise_variance_z``.

    Attributes
    ----------
    coef : ndarray of shape (k, d), float64
        Units of the target per unit of the covariate.
    intercept : ndarray of shape (k,), float64
    noise_variance : ndarray of shape (k,), float64
        Positive; squared units of the target.
    weights : ndarray of shape (k,), float64
        Positive, sum to one.
    feature_mean : ndarray of shape (d,), float64
    correlation : float
        The covariates have unit variance and are autoregressive of order one in their position:
        ``Sigma_ij = correlation ** |i - j|``.

    Raises
    ------
    InputError
        If the shapes do not fit or a value is impossible.

    Examples
    --------
    >>> one = np.ones(1)
    >>> MixtureTruth(np.ones((1, 2)), one, one, one, np.zeros(2), 0.5).feature_covariance.tolist()
    [[1.0, 0.5], [0.5, 1.0]]
    """

    coef: NDArray[np.float64]
    intercept: NDArray[np.float64]
    noise_variance: NDArray[np.float64]
    weights: NDArray[np.float64]
    feature_mean: NDArray[np.float64]
    correlation: float = 0.0

    def __post_init__(self) -> None:
        self._check_shapes()
        for field in fields(self):
            values = np.asarray(getattr(self, field.name))
            if not np.isfinite(values).all():
                wrong = values[~np.isfinite(values)][0]
                raise InputError(f"{field.name} must be finite, but holds {wrong}")
        for name in ("noise_variance", "weights"):
            if (getattr(self, name) <= 0).any():
                raise InputError(f"{name} must be positive, not {getattr(self, name).tolist()}")
        if abs(self.weights.sum() - 1) > 1e-6:
            raise InputError(f"weights must sum to 1, but sum to {self.weights.sum():.6g}")
        if not -1 < self.correlation < 1:
            raise InputError(f"correlation must lie between -1 and 1, not be {self.correlation}")

    def _check_shapes(self) -> None:
        if self.coef.ndim != 2 or self.coef.size == 0:
            raise InputError(f"coef must have shape (k, d), not {self.coef.shape}")
        k, d = self.coef.shape
        if k > MAX_COMPONENTS:
            raise InputError(f"there can be at most {MAX_COMPONENTS} components, not {k}")
        lengths = {"intercept": k, "noise_variance": k, "weights": k, "feature_mean": d}
        for name, length in lengths.items():
            shape = getattr(self, name).shape
            if shape != (length,):
                raise InputError(f"{name} must have shape ({length},), not {shape}")

    @property
    def n_components(self) -> int:
        """Number of components, k."""
        return len(self.weights)

    @property
    def n_features(self) -> int:
        """Number of covariates, d."""
        return int(self.coef.shape[1])

    @property
    def feature_covariance(self) -> NDArray[np.float64]:
        """Covariance of the covariates, shape (d, d)."""
        powers = np.float64(self.correlation) ** np.arange(self.n_features)
        return np.asarray(scipy.linalg.toeplitz(powers), dtype=np.float64)

    @property
    def second_moment(self) -> NDArray[np.float64]:
        """``E[a a^T]`` of ``a = [1, x]``, shape (d + 1, d + 1)."""
        mean = np.append(1.0, self.feature_mean)
        moment = np.outer(mean, mean)
        moment[1:, 1:] += self.feature_covariance
        return moment


class TruthParameters(TypedDict, total=False):
    """The parameters of `make_truth`, all but the seed."""

    n_components: int
    n_features: int
    noise: ArrayLike
    weights: ArrayLike | None
    intercept_scale: float
    coef_scale: float
    orthonormal: bool
    mean: ArrayLike
    correlation: float


def make_truth(
    *,
    n_components: int,
    n_features: int,
    random_state: int,
    noise: ArrayLike = 0.5,
    weights: ArrayLike | None = None,
    intercept_scale: float = 0.0,
    coef_scale: float = 1.0,
    orthonormal: bool = False,
    mean: ArrayLike = 0.0,
    correlation: float = 0.0,
) -> MixtureTruth:
    """Draw the parameters of a mixture.

    Parameters
    ----------
    n_components, n_features : int
        k and d.
    random_state : int
        Seed, not negative.
    noise : array_like of shape () or (k,)
        Standard deviation of the noise, in units of the target.
    weights : array_like of shape (k,), optional
        Shares of the components among tasks, summing to one; equal by default.
    intercept_scale : float
        Standard deviation of the intercepts.
    coef_scale : float
        Coefficients are ``coef_scale * N(0, I / d)``: of this root mean square norm.
    orthonormal : bool
        Draw orthogonal coefficients instead, each of norm `coef_scale`; needs ``k <= d``.
    mean : array_like of shape () or (d,)
        Of the covariates, whose variances are one.
    correlation : float
        Of neighbouring covariates (autoregressive of order one), see `MixtureTruth`.

    Raises
    ------
    InputError
        If a parameter is impossible.

    Examples
    --------
    >>> truth = make_truth(n_components=2, n_features=3, random_state=0, noise=[0.5, 1.0])
    >>> truth.coef.shape, truth.noise_variance.tolist(), truth.weights.tolist()
    ((2, 3), [0.25, 1.0], [0.5, 0.5])
    """
    k, d = whole_number(n_components, "n_components"), whole_number(n_features, "n_features")
    for name, scale in (("intercept_scale", intercept_scale), ("coef_scale", coef_scale)):
        if not 0 <= scale < np.inf:
            raise InputError(f"{name} must be finite and not negative, not {scale}")
    rng = generator(random_state, Stream.COEF)
    if orthonormal:
        if k > d:
            raise InputError(f"{k} orthonormal coefficients need at least {k} features, not {d}")
        Q, R = np.linalg.qr(rng.standard_normal((d, k)))
        coef = (Q * np.sign(np.diag(R))).T  # the signs make the draw uniform over frames
    else:
        coef = rng.standard_normal((k, d)) / np.sqrt(d)
    deviation = _vector(noise, k, "noise")
    if (deviation <= 0).any():
        raise InputError(f"noise must be a positive deviation, not {deviation.min():g}")
    return MixtureTruth(
        coef=coef_scale * coef,
        intercept=generator(random_state, Stream.INTERCEPT).normal(0, intercept_scale, k),
        noise_variance=deviation**2,
        weights=np.full(k, 1 / k) if weights is None else np.asarray(weights, dtype=np.float64),
        feature_mean=_vector(mean, d, "mean"),
        correlation=float(correlation),
    )


def truth_path(store: str | Path) -> str | Path:
    """Where the truth of a store is kept: ``tasks.zarr`` has ``tasks.truth.zarr``.

    Examples
    --------
    >>> truth_path("runs/tasks.zarr").as_posix(), truth_path("s3://bucket/tasks")
    ('runs/tasks.truth.zarr', 's3://bucket/tasks.truth.zarr')
    """
    place = locate(store)
    name = f"{place.name.removesuffix('.zarr')}.truth.zarr"
    return str(place.parent.join(name)) if "://" in str(store) else Path(store).with_name(name)


def save_truth(
    store: str | Path,
    truth: MixtureTruth,
    labels: NDArray[np.int16],
    *,
    parameters: dict[str, Any],
) -> None:
    """Write the truth of a store beside it, as a Zarr group of plain arrays.

    Parameters
    ----------
    store : path
        Of the task store, which need not exist yet.
    truth : MixtureTruth
    labels : ndarray of shape (n_tasks,), int16
        Component of each task, in the store's order.
    parameters : dict
        How the tasks were drawn, JSON-able.

    Raises
    ------
    PathExistsError
        If there is a truth already.
    """
    save_group(
        truth_path(store),
        kind=KIND,
        version=TRUTH_FORMAT,
        arrays={name: getattr(truth, name) for name in ARRAYS} | {"labels": labels},
        facts={"correlation": truth.correlation, "parameters": parameters},
    )


def load_truth(store: str | Path) -> tuple[MixtureTruth, NDArray[np.int16]]:
    """Read the truth of a synthetic store.

    Parameters
    ----------
    store : path
        Of the task store; the truth lies beside it, see `truth_path`.

    Returns
    -------
    truth : MixtureTruth
    labels : ndarray of shape (n_tasks,), int16
        Component of each task, in the store's order.

    Raises
    ------
    StoreError
        If there is no truth there (only `simulate` makes one), or it is of another format.
    DamagedStoreError
        If an array cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> from daskmlr import simulate
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tasks = simulate(
    ...         f"{folder}/tasks", n_components=2, n_features=3, task_groups=[(100, 5)],
    ...         random_state=0,
    ...     )
    ...     truth, labels = load_truth(tasks.path)
    >>> truth.coef.shape, labels.shape
    ((2, 3), (100,))
    """
    content = load_group(truth_path(store), kind=KIND, version=TRUTH_FORMAT)
    arrays = {name: content[name] for name in ARRAYS}
    return MixtureTruth(**arrays, correlation=content["correlation"]), content["labels"]


def _vector(values: ArrayLike, length: int, name: str) -> NDArray[np.float64]:
    """Return one value, or one for each, as a vector."""
    vector = np.asarray(values, dtype=np.float64)
    if vector.shape not in ((), (length,)):
        raise InputError(f"{name} must be one number or {length}, not of shape {vector.shape}")
    return np.broadcast_to(vector, (length,)).copy()
