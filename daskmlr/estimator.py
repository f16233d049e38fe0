"""`MixedLinearRegression`: scikit-learn's contract around the stages of a fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils.validation import check_is_fitted

from daskmlr.data import as_store
from daskmlr.describe import CardOfModel
from daskmlr.errors import InputError
from daskmlr.fitting import fit_tasks
from daskmlr.graph.execute import connect
from daskmlr.record import checkpointing
from daskmlr.selection import fit_best
from daskmlr.stages import FitOptions, seed_of
from daskmlr.updating import update_model

if TYPE_CHECKING:
    import os

    from numpy.typing import ArrayLike, NDArray

    from daskmlr.arguments import Support
    from daskmlr.data import Data
    from daskmlr.graph.execute import ClientLike
    from daskmlr.model import Model
    from daskmlr.progress import Show
    from daskmlr.storage.checkpoint import Checkpoint
    from daskmlr.uncertainty import Uncertainty

PAIRS = {"all": 0, "split": 2}


class MixedLinearRegression(CardOfModel, RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """k linear regressions shared by many small tasks, found by spectral meta-learning.

    Each task follows one of `n_components` unknown linear regressions. The fit finds their
    subspace from moments of all tasks, first components from the largest tasks, and refines both
    by expectation-maximisation over all tasks (Kong, Somani, Song, Kakade, Oh, ICML 2020, with
    every pair of a task's examples used and the last step repeated to convergence).

    Parameters
    ----------
    n_components : int or "auto"
        Number of regressions, k; may exceed the number of features. "auto" fits several numbers
        and keeps the one of the smallest BIC; each number costs a fit.
    pairs : {"all", "split"} or int
        Pairs of examples used for the subspace: all pairs of a task; those between its two
        halves, as in the paper; or those between so many groups.
    clustering : {"em", "linkage"}
        How the first components are found: expectation-maximisation in the subspace, or the
        paper's single linkage of median-of-batches distances.
    n_heavy : int, optional
        Number of tasks, the largest ones, used for that; by default 256 for each component (1,024
        if `robust`) and at least 8,192, fewer if they would not fit in memory.
    n_batches : int
        Batches of a task for the linkage's median.
    n_restarts : int
        Most restarts of the search for the first components; it ends when the best has been found
        twice.
    assignment : {"soft", "hard"}
        Whether a task counts for every component by its posterior, or for the likeliest alone.
    max_iter : int
        Most refinement passes.
    tol : float
        Refinement stops when a pass raises the log-likelihood of all tasks by less. One standard
        error is worth 0.5.
    sample_split : bool
        Use disjoint thirds of the tasks for subspace, first components and refinement, as the
        paper's proof asks; every task everywhere is more accurate.
    robust : float, optional
        Bound of the share of corrupted tasks, below half: up to so many tasks that no component
        explains are left out of the fit (Kong, Somani, Kakade, Oh, NeurIPS 2020). By default every
        task counts. Each component should hold a larger share.
    random_state : int, RandomState or None
        Seeds the restarts and the signs of the null; an int makes the fit reproducible to the bit.

    Attributes
    ----------
    coef_ : ndarray of shape (k, d)
        Slopes, in target units per feature unit; components in order of falling weight.
    intercept_ : ndarray of shape (k,)
        In target units.
    noise_variance_ : ndarray of shape (k,)
        In squared target units.
    weights_ : ndarray of shape (k,)
        Share of the tasks.
    subspace_ : ndarray of shape (d + 1, min(k, d + 1))
        Orthonormal directions that span the coefficients, in standardised coordinates.
    log_likelihood_ : float
        Of all tasks, or of those that refined it with `sample_split` or `robust`.
    n_iter_ : int
        Refinement passes.
    converged_ : bool
    diagnostics_ : dict
        Numbers that say how far the fit can be trusted; see `Model`.
    model_ : Model
        All of it, to be saved.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
    task_ids_, labels_ : ndarray of shape (n_tasks,)
        The tasks, sorted, and their likeliest components; after a fit to arrays only. `assign`
        says more of each task, of a store too.

    Examples
    --------
    >>> import numpy as np
    >>> from daskmlr import MixedLinearRegression
    >>> rng = np.random.default_rng(0)
    >>> groups = np.repeat(np.arange(200), 5)
    >>> slope = np.where(groups % 2, 3.0, -1.0)
    >>> x = rng.normal(size=1000)
    >>> y = slope * x + 0.1 * rng.normal(size=1000)
    >>> model = MixedLinearRegression(2, random_state=0).fit(x[:, None], y, groups=groups)
    >>> np.sort(model.coef_[:, 0]).round(1).tolist()
    [-1.0, 3.0]
    >>> model.predict([[1.0]], support=([[2.0], [1.0]], [6.1, 2.9])).round(1).tolist()
    [3.0]
    """

    def __init__(
        self,
        n_components: int | Literal["auto"] = 2,
        *,
        pairs: str | int = "all",
        clustering: Literal["em", "linkage"] = "em",
        n_heavy: int | None = None,
        n_batches: int = 1,
        n_restarts: int = 12,
        assignment: Literal["soft", "hard"] = "soft",
        max_iter: int = 100,
        tol: float = 0.01,
        sample_split: bool = False,
        robust: float | None = None,
        random_state: int | np.random.RandomState | None = None,
    ):
        self.n_components = n_components
        self.pairs = pairs
        self.clustering = clustering
        self.n_heavy = n_heavy
        self.n_batches = n_batches
        self.n_restarts = n_restarts
        self.assignment = assignment
        self.max_iter = max_iter
        self.tol = tol
        self.sample_split = sample_split
        self.robust = robust
        self.random_state = random_state

    def fit(
        self,
        X: Data,
        y: ArrayLike | None = None,
        *,
        groups: ArrayLike | None = None,
        client: ClientLike = None,
        progress: bool | Show = False,
        checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
        resume: bool = False,
    ) -> MixedLinearRegression:
        """Fit to a task store, or to arrays with the task of each row.

        Parameters
        ----------
        X : TaskStore, path of one, or array of shape (n_rows, d)
        y : array of shape (n_rows,), optional
        groups : array of shape (n_rows,), optional
            The task of each row, integers or strings, in any order.
        client : Client, str or None
            Where to compute, as for `reduce_tasks`.
        progress : bool or callable
            True shows bars in a terminal or a notebook, as for `reduce_tasks`.
        checkpoint : path, optional
            Folder that keeps what each stage and pass has found until the fit is done; needs an
            int as `random_state`.
        resume : bool
            Go on from the checkpoint of an interrupted fit, if any, to the same bits.

        Raises
        ------
        InputError
            For data or parameters that cannot be fitted.
        CheckpointError
            If the checkpoint is of another store, other parameters or other code; without `resume`,
            if there is one.
        """
        options = self._options()
        with (
            as_store(X, y, groups) as tasks,
            connect(client, progress) as runner,
            checkpointing(checkpoint, tasks, self.get_params(), resume=resume) as kept,
        ):
            fit = fit_best if self.n_components == "auto" else fit_tasks
            model, diagnosis = fit(tasks, options, runner, kept)
            diagnosis.give_warnings(stacklevel=2)
            self._take(model)
            if y is not None:
                labelled = self.model_.assign(tasks, client=runner)
                assert labelled is not None  # noqa: S101 - no output path was given
                self.task_ids_ = labelled[tasks.task_name]
                self.labels_ = labelled["label"]
        return self

    def partial_fit(
        self,
        X: Data,
        y: ArrayLike | None = None,
        *,
        groups: ArrayLike | None = None,
        client: ClientLike = None,
        progress: bool | Show = False,
    ) -> MixedLinearRegression:
        """Refine the fit with new tasks, the old ones unread; a first call is a `fit`.

        Parameters
        ----------
        X, y, groups, client, progress
            As for `fit`. Of a store that was fitted and then appended to, the appended tasks are
            taken; of another store, and of arrays, all.

        Raises
        ------
        InputError
            If a store holds nothing new.
        FeatureMismatchError
            If the features are others, or categories have other levels.
        """
        if not hasattr(self, "model_"):
            return self.fit(X, y, groups=groups, client=client, progress=progress)
        with as_store(X, y, groups, self.model_) as tasks, connect(client, progress) as runner:
            model, diagnosis = update_model(self.model_, tasks, self._options(), runner)
        diagnosis.give_warnings(stacklevel=2)
        self._take(model)
        return self

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
        """Label every task of a store or of arrays, and say how sure; see `Model.assign`.

        Examples
        --------
        >>> import numpy as np
        >>> import pandas as pd
        >>> from daskmlr import MixedLinearRegression
        >>> week = np.arange(600.0)
        >>> sales = pd.DataFrame({"shop": np.repeat(np.arange(100), 6), "price": week % 7})
        >>> slope = np.where(sales["shop"] % 3, 2.0, -1.0)
        >>> sales["sold"] = slope * sales["price"] + np.sin(week)
        >>> data = (sales[["price"]], sales["sold"])
        >>> model = MixedLinearRegression(2, random_state=0).fit(*data, groups=sales["shop"])
        >>> found = model.assign(*data, groups=sales["shop"])
        >>> sure = found.pop("posterior").max(axis=1)
        >>> pd.DataFrame(found).assign(sure=sure)[["shop", "label", "sure"]].round(3).head(3)
           shop  label  sure
        0     0      1   1.0
        1     1      0   1.0
        2     2      0   1.0
        """
        check_is_fitted(self)
        return self.model_.assign(X, y, groups=groups, out=out, client=client, progress=progress)

    def predict(
        self,
        X: ArrayLike,
        *,
        support: Support | None = None,
        groups: ArrayLike | None = None,
        method: Literal["bayes", "map"] = "bayes",
        return_std: bool = False,
    ) -> NDArray[np.float64] | tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Predict for new tasks from a few examples of each; see `Model.predict`."""
        check_is_fitted(self)
        return self.model_.predict(
            X, support=support, groups=groups, method=method, return_std=return_std
        )

    def predict_interval(
        self,
        X: ArrayLike,
        *,
        support: Support | None = None,
        groups: ArrayLike | None = None,
        level: float = 0.95,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Bounds of the targets of new tasks; see `Model.predict_interval`."""
        check_is_fitted(self)
        return self.model_.predict_interval(X, support=support, groups=groups, level=level)

    def score(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        support: Support | None = None,
        groups: ArrayLike | None = None,
    ) -> float:
        """R^2 of `predict`, from the support of the tasks.

        Without support, as scikit-learn's tools call it, nothing says which regression a task
        follows: it is the score of the weighted mean of all, and says little about the fit.

        Parameters
        ----------
        X, support, groups
            As for `predict`.
        y : array of shape (n,)
            Targets of the rows of `X`, none of them of the support.
        sample_weight : array of shape (n,), optional
        """
        predicted = self.predict(X, support=support, groups=groups)
        return float(r2_score(y, predicted, sample_weight=sample_weight))

    def uncertainty(
        self,
        X: Data,
        y: ArrayLike | None = None,
        *,
        groups: ArrayLike | None = None,
        client: ClientLike = None,
        progress: bool | Show = False,
    ) -> Uncertainty:
        """Take standard errors and intervals from the data of `fit`; see `Model.uncertainty`."""
        check_is_fitted(self)
        with as_store(X, y, groups, self.model_) as tasks:
            return self.model_.uncertainty(tasks, client=client, progress=progress)

    def _options(self) -> FitOptions:
        pairs = PAIRS.get(self.pairs, self.pairs) if isinstance(self.pairs, str) else self.pairs
        for name, value, allowed in (
            ("clustering", self.clustering, ("em", "linkage")),
            ("assignment", self.assignment, ("soft", "hard")),
        ):
            if value not in allowed:
                raise InputError(f"{name} must be one of {allowed}, got {value!r}")
        if isinstance(self.n_components, str) and self.n_components != "auto":
            raise InputError(f"n_components must be a number or 'auto', got {self.n_components!r}")
        if isinstance(pairs, str):
            raise InputError(f"pairs must be 'all', 'split' or a number of groups, got {pairs!r}")
        return FitOptions(
            n_components=1 if isinstance(self.n_components, str) else self.n_components,
            groups=pairs,
            clustering=self.clustering,
            n_heavy=self.n_heavy,
            n_batches=self.n_batches,
            n_restarts=self.n_restarts,
            assign=self.assignment,
            max_iter=self.max_iter,
            tol=self.tol,
            seed=seed_of(self.random_state),
            sample_split=self.sample_split,
            robust=self.robust,
        )

    def _take(self, model: Model) -> None:
        self.model_ = model
        self.coef_ = model.coef
        self.intercept_ = model.intercept
        self.noise_variance_ = model.noise_variance
        self.weights_ = model.weights
        self.subspace_ = model.subspace
        self.log_likelihood_ = model.log_likelihood
        self.n_iter_ = model.n_iter
        self.converged_ = model.converged
        self.diagnostics_ = model.diagnostics
        self.n_features_in_ = model.n_features
        self.feature_names_in_ = np.array(model.feature_names, dtype=object)
