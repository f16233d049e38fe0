"""The fitted model: parameters in the user's units; save, load, assign, predict."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from daskmlr.arguments import checked_rows, grouped_rows, label_shares
from daskmlr.data import as_store
from daskmlr.describe import model_card, model_text
from daskmlr.encoding import check_levels
from daskmlr.errors import DamagedStoreError, InputError
from daskmlr.graph.reduce import map_tasks
from daskmlr.kernels.assignment import Mixture, block_log_likelihood, posterior
from daskmlr.kernels.blocks import Frame, Part
from daskmlr.kernels.outliers import assigned_columns
from daskmlr.kernels.predictive import Predictive
from daskmlr.kernels.thin import SubspaceFrame
from daskmlr.storage.checking import check_names
from daskmlr.storage.groups import check_shapes, load_group, save_group
from daskmlr.storage.sources import begins_with
from daskmlr.uncertainty import Uncertainty, check_level, measure_uncertainty

if TYPE_CHECKING:
    import os

    from numpy.typing import ArrayLike, NDArray

    from daskmlr.arguments import Support
    from daskmlr.data import Data
    from daskmlr.graph.execute import ClientLike
    from daskmlr.progress import Show
    from daskmlr.storage.tasks import TaskStore

KIND = "daskmlr-model"
FORMAT_VERSION = 2


@dataclass(frozen=True)
class Model:
    """A mixture of k linear regressions; components in order of falling weight.

    Attributes
    ----------
    coef : ndarray of shape (k, d), float64
        Slopes, in target units per feature unit.
    intercept : ndarray of shape (k,), float64
        In target units.
    noise_variance : ndarray of shape (k,), float64
        In squared target units.
    weights : ndarray of shape (k,), float64
        Share of the tasks.
    feature_names : tuple of d str
    target_name, task_name : str
    encoding : dict or None
        How the features were made of a table's columns.
    shift, scale : ndarray of shape (d,), float64
        What features are moved and divided by in computations, in their units.
    subspace : ndarray of shape (d + 1, r), float64
        Orthonormal directions that span the coefficients, in standardised coordinates; of a model
        of many features, as they act on a one and the moved and scaled features.
    eigenvalues : ndarray of shape (r,), float64
        Squared signal along each direction, in squared target units.
    noise_edge : float
        Largest eigenvalue that noise alone gives.
    offset : ndarray of shape (d + 1,), float64
        Pooled regression that the sums were taken without, intercept first, per scale of feature.
    gram : ndarray of shape (k, d + 2, d + 2), float64; of many features (k, r + 2, r + 2)
        Sum of ``[a, r] [a, r]^T`` of each component's tasks, ``a`` the moved and scaled features
        after a one (of many features, what `subspace` makes of them), ``r`` the target less the
        pooled regression: what an update begins with.
    mass : ndarray of shape (k,), float64
        Sum of the posteriors of the tasks.
    sources : tuple of dict
        ``fingerprint`` and ``n_tasks`` of every store it was fitted on or updated from.
    data : tuple of dict
        What was read of each, counts of its tasks by size among it: see `data_of`.
    log_likelihood : float
        Of all tasks it was fitted on.
    n_tasks, n_rows, n_iter : int
        Tasks and examples it was fitted on; refinement passes.
    converged : bool
    history : tuple of dict
        Stages in order, as `RunRecord` has them: seconds, and of refinement passes the
        log-likelihood.
    notes : tuple of str
        What the fit warned of.
    diagnostics : dict
        Numbers behind that: BIC and ICL; by component the examples it holds, its nearest other,
        the log-likelihood lost if the two were one (and the price of its parameters by BIC), and
        what the coefficients of its tasks still share (a variance, and the one that noise gives).
    heavy_coef, heavy_centres : ndarray of shape (n, r) and (k, r), float64
        Along `subspace`, in target units: coefficients of a few of the largest tasks, each by
        itself (ridge estimates), and those of the components, as the fit left them: an update
        keeps them.
    heavy_labels, heavy_sizes : ndarray of shape (n,), int64
        The likeliest component of each of these tasks, and its examples.
    left_out : ndarray of int64
        Places, in the store, of the odd tasks that a robust fit left out, ascending.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from daskmlr import MixedLinearRegression
    >>> X, groups = np.random.default_rng(0).normal(size=(400, 1)), np.repeat(np.arange(100), 4)
    >>> y = np.where(groups % 2, 2.0, -1.0) * X[:, 0]
    >>> fitted = MixedLinearRegression(2, random_state=0).fit(X, y, groups=groups).model_
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fitted.save(f"{folder}/model")
    ...     model = Model.load(f"{folder}/model")
    >>> np.sort(model.coef[:, 0]).round(6).tolist()
    [-1.0, 2.0]
    """

    coef: NDArray[np.float64]
    intercept: NDArray[np.float64]
    noise_variance: NDArray[np.float64]
    weights: NDArray[np.float64]
    feature_names: tuple[str, ...]
    target_name: str
    task_name: str
    encoding: dict[str, Any] | None
    shift: NDArray[np.float64]
    scale: NDArray[np.float64]
    subspace: NDArray[np.float64]
    eigenvalues: NDArray[np.float64]
    noise_edge: float
    offset: NDArray[np.float64]
    gram: NDArray[np.float64]
    mass: NDArray[np.float64]
    sources: tuple[dict[str, Any], ...]
    log_likelihood: float
    n_tasks: int
    n_rows: int
    n_iter: int
    converged: bool
    history: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    diagnostics: dict[str, Any] = field(default_factory=dict)
    data: tuple[dict[str, Any], ...] = ()
    heavy_coef: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))
    heavy_centres: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))
    heavy_labels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, int))
    heavy_sizes: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, int))
    left_out: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, int))

    def __repr__(self) -> str:
        return model_text(self)

    def _repr_html_(self) -> str:
        return model_card(self)

    @property
    def n_components(self) -> int:
        """Number of components, k."""
        return len(self.weights)

    @property
    def is_wide(self) -> bool:
        """Whether it has so many features that its sums are of the subspace alone."""
        return bool(self.gram.shape[1] != self.n_features + 2)

    @property
    def frame(self) -> Frame:
        """Coordinates that `gram` was taken in."""
        frame = Frame(self.shift, self.scale, self.offset)
        return SubspaceFrame.of(frame, self.subspace) if self.is_wide else frame

    @property
    def feature_scale(self) -> NDArray[np.float64]:
        """Standard deviation of each feature over the examples that were fitted, shape (d,).

        Of a model of many features, whose sums are of a subspace, a power of two near it, or one.
        """
        if self.is_wide:
            return self.scale
        total = self.gram.sum(axis=0)
        second, mean = np.diag(total)[1:-1] / total[0, 0], total[0, 1:-1] / total[0, 0]
        deviation: NDArray[np.float64] = np.sqrt(np.maximum(second - mean**2, 0)) * self.scale
        return deviation

    @property
    def n_features(self) -> int:
        """Number of features, d."""
        return len(self.feature_names)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model as a new Zarr group, published when it is complete.

        Raises
        ------
        PathExistsError
            If `path` exists.
        """
        content = asdict(self)
        arrays = {name: v for name, v in content.items() if isinstance(v, np.ndarray)}
        facts = {name: v for name, v in content.items() if name not in arrays}
        save_group(path, kind=KIND, version=FORMAT_VERSION, arrays=arrays, facts=facts)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Model:
        """Read a saved model.

        Raises
        ------
        StoreError
            If `path` is not a model, is damaged, or was written by a newer format.
        """
        content = load_group(path, kind=KIND, version=FORMAT_VERSION)
        try:
            for name in ("feature_names", "sources", "history", "notes", "data"):
                content[name] = tuple(content[name])
            content.setdefault("left_out", np.zeros(0, int))  # models written before lack it
            model = cls(**{f.name: content[f.name] for f in fields(cls)})
            check_shapes(content, _shapes(model, *model.heavy_coef.shape))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            said = f"{path} is no whole model ({error}): restore it, or fit it again"
            raise DamagedStoreError(said) from error
        return model

    def check_store(self, tasks: TaskStore) -> None:
        """Refuse a store whose features are not those of the model, in order and by their levels.

        Raises
        ------
        FeatureMismatchError
        """
        check_levels(tasks.encoding, self.encoding, f"the store {tasks.path}")
        check_names(tasks.feature_names, self.feature_names, f"the store {tasks.path}")

    def assign(
        self,
        X: Data,
        y: ArrayLike | None = None,
        *,
        groups: ArrayLike | None = None,
        out: str | os.PathLike[str] | None = None,
        client: ClientLike = None,
        progress: bool | Show = False,
    ) -> dict[str, NDArray[Any]] | None:
        """Label every task of a store or of arrays, in one pass, and say how sure that is.

        Parameters
        ----------
        X : TaskStore, path of one, or array of shape (n_rows, d)
            With the features of the model.
        y, groups : array of shape (n_rows,), optional
            Of arrays: the targets, and the task of each row, in any order.
        out : path or None
            A new ``.parquet`` folder or ``.zarr`` group; None returns the columns in memory.
        client, progress
            As for `reduce_tasks`.

        Returns
        -------
        dict or None
            If `out` is None: the task's key, of arrays sorted (named as `groups`, or as the model
            names it); ``label`` (int32), the likeliest component; ``log_likelihood`` (float64) of
            the task's targets; ``p_value`` (float64), the probability of a task at least as ill
            explained (see `odd_tasks`); ``posterior`` of shape (n_tasks, k), float32.

        Raises
        ------
        InputError, FeatureMismatchError, PathExistsError
        """
        with as_store(X, y, groups, self) as tasks:
            self.check_store(tasks)
            return map_tasks(
                tasks, assigned_columns, out,
                args=self._centred(), client=client, progress=progress, name="assign",
            )  # fmt: skip

    def _posterior(
        self, X: ArrayLike, y: ArrayLike, groups: ArrayLike
    ) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Tasks of a support, sorted, and the posterior of their labels, shape (n_tasks, k)."""
        keys, block = grouped_rows(X, y, groups, self.feature_names)
        return keys, posterior(block_log_likelihood(block, *self._centred()))[0]

    def predict(
        self,
        X: ArrayLike,
        *,
        support: Support | None = None,
        groups: ArrayLike | None = None,
        method: Literal["bayes", "map"] = "bayes",
        return_std: bool = False,
    ) -> NDArray[np.float64] | tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Predict for new tasks from a few examples of each.

        The Bayes predictor averages the components by their posterior given the support; no
        predictor has a smaller expected squared error when the model holds (Pathak et al. 2023,
        arXiv:2311.08362). The MAP predictor uses the likeliest component alone.

        Parameters
        ----------
        X : array of shape (n, d)
            In the units of the features.
        support : tuple (X_s, y_s) or (X_s, y_s, groups_s), optional
            Examples of the task; with `groups_s`, of several tasks. Without support, components
            count by their weights.
        groups : array of shape (n,), optional
            The task of each row of `X`, needed when the support has `groups_s`. A task without
            support is predicted from the weights.
        method : {"bayes", "map"}
        return_std : bool
            Also return the standard deviation of the prediction: noise, and for "bayes" also the
            uncertainty of the label.

        Returns
        -------
        mean : ndarray of shape (n,), in target units
        std : ndarray of shape (n,), in target units
            If `return_std`.

        Raises
        ------
        InputError
            For arrays of the wrong shape, non-finite values, or rows none of whose tasks has
            support.
        FeatureMismatchError
            If the columns of a data frame are not the features, in their order.
        """
        if method not in ("bayes", "map"):
            raise InputError(f"method must be 'bayes' or 'map', got {method!r}")
        found = self.predictive(X, support=support, groups=groups)
        if method == "map":
            found = found.likeliest()
        return (found.mean, found.std) if return_std else found.mean

    def predict_interval(
        self,
        X: ArrayLike,
        *,
        support: Support | None = None,
        groups: ArrayLike | None = None,
        level: float = 0.95,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Bounds, of shape (n,), that a new target lies between with probability `level`.

        Quantiles of the mixture of normals whose mean `predict` gives: noise and uncertain labels
        are in them, errors of the parameters are not. Parameters and errors as for `predict`; the
        tails outside have equal probability.
        """
        return self.predictive(X, support=support, groups=groups).interval(check_level(level))

    def predictive(
        self, X: ArrayLike, *, support: Support | None = None, groups: ArrayLike | None = None
    ) -> Predictive:
        """Distribution of the target of each row, of which `predict` gives the mean.

        It has `mean`, `std` and `interval`, in target units, and `label` and `probability`: the
        likeliest component of the row's task, and its posterior given the support (`assign` says
        more of the support's tasks). Parameters and errors as for `predict`.
        """
        X = checked_rows(X, self.feature_names, "X")
        shares = label_shares(len(X), self.weights, support, groups, self._posterior)
        return Predictive(shares, X @ self.coef.T + self.intercept, self.noise_variance)

    def uncertainty(
        self, tasks: TaskStore, *, client: ClientLike = None, progress: bool | Show = False
    ) -> Uncertainty:
        """Take standard errors and confidence intervals of the parameters, in one pass.

        Parameters
        ----------
        tasks : TaskStore
            Those the model was fitted to. Odd ones that a robust fit left out are left out again.
        client, progress
            As for `reduce_tasks`.

        Raises
        ------
        FeatureMismatchError, InformationError, PlanError
            As `measure_uncertainty`, which also warns where the result cannot be trusted.
        """
        self.check_store(tasks)
        is_own = self.left_out.size > 0 and begins_with(tasks, self.sources[0])
        part = Part.without(self.left_out) if is_own else None
        return measure_uncertainty(
            tasks, *self._centred(), part=part, client=client, progress=progress
        )

    def _centred(self) -> tuple[Frame, Mixture]:
        """Return the parameters in a frame around the mean, the average component taken out."""
        frame = Frame(self.shift, self.scale, np.zeros(self.n_features + 1))
        frame = frame.with_offset(self.weights @ frame.from_user(self.coef, self.intercept))
        coef = frame.from_user(self.coef, self.intercept)
        return frame, Mixture(coef, self.noise_variance, self.weights)


def _shapes(model: Model, n: int, r: int) -> dict[str, tuple[int, ...]]:
    k, d = model.n_components, model.n_features
    by_component = dict.fromkeys(("intercept", "noise_variance", "weights", "mass"), (k,))
    by_feature = {"coef": (k, d), "shift": (d,), "scale": (d,), "offset": (d + 1,)}
    by_task = {"heavy_labels": (n,), "heavy_sizes": (n,), "heavy_centres": (k if n else 0, r)}
    return {**by_component, **by_feature, **by_task}
