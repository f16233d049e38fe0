"""A checkpoint on an object store: what one process keeps, another takes up."""

from unittest import mock

import numpy as np
import pytest

from daskmlr import MixedLinearRegression, simulate
from daskmlr.errors import CheckpointError
from daskmlr.storage.location import locate
from tests.benchmarks.bitwise import different


def test_a_fit_goes_on_from_a_bucket(bucket, tmp_path):
    tasks = simulate(
        tmp_path / "tasks", n_components=2, n_features=3, noise=0.5, task_groups=[(500, 5)],
        random_state=0,
    )  # fmt: skip
    kept = f"{bucket}/run.checkpoint"
    expected = MixedLinearRegression(2, random_state=0).fit(tasks, client="sync").model_

    def fit(*, resume):
        estimator = MixedLinearRegression(2, random_state=0)
        return estimator.fit(tasks, client="sync", checkpoint=kept, resume=resume).model_

    with (
        mock.patch("daskmlr.fitting.diagnose", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        fit(resume=False)
    names = locate(kept).names()
    assert "run.json" in names
    assert {name.partition("-")[0] for name in names} >= {"moments", "cluster", "ascent"}
    with pytest.raises(CheckpointError, match=r"resume it \(--resume, resume=True\), or remove it"):
        fit(resume=False)
    with mock.patch("daskmlr.record.reduce_tasks", side_effect=AssertionError("computed again")):
        found = fit(resume=True)
    assert different(found, expected) == []
    assert np.array_equal(found.coef, expected.coef)
    assert locate(kept).is_missing()
