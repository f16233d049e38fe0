"""Further tables of the same columns: read as the first was, and never silently as another."""

import numpy as np
import pandas as pd
import pytest

from daskmlr import MixedLinearRegression, Model, create_tasks, ingest, open_tasks
from daskmlr.errors import CheckpointError, FeatureMismatchError
from daskmlr.record import checkpointing
from tests.test_cli import refuse, succeed

COLUMNS = ("--task", "patient", "--target", "score")


def visits(first, n_patients, *, seed=0, n_visits=6):
    """Rows of patients of two kinds, who differ in what dose, sex and clinic do."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(first, first + n_patients), n_visits)
    kind, n = patient % 2, len(patient)
    sex, clinic = rng.choice(["F", "M"], n), rng.choice(["A", "B", "C"], n)
    dose = rng.normal(size=n)
    score = np.array([2.0, -1.0])[kind] * dose + np.array([1.0, 3.0])[kind] * (sex == "M")
    score += (clinic == "B") - 2.0 * (clinic == "C") + 0.3 * rng.normal(size=n)
    return pd.DataFrame(
        {"patient": patient, "dose": dose, "sex": sex, "clinic": clinic, "score": score}
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The first month: its table, its store, its model."""
    folder = tmp_path_factory.mktemp("months")
    visits(0, 300).to_parquet(folder / "first.parquet")
    succeed("ingest", folder / "first.parquet", folder / "first", *COLUMNS)
    succeed("fit", folder / "first", folder / "model", "--n-components", 2)
    return folder


def test_another_reference_level_is_refused_by_all_that_read_a_store(folder, tmp_path):
    visits(1000, 50).replace({"sex": {"F": "E"}}).to_parquet(tmp_path / "new.parquet")
    succeed("ingest", tmp_path / "new.parquet", tmp_path / "new", *COLUMNS)
    assert open_tasks(tmp_path / "new").feature_names == open_tasks(folder / "first").feature_names
    model, new, out = folder / "model", tmp_path / "new", tmp_path / "out.parquet"
    for command in (
        ("update", model, new, tmp_path / "after"),
        ("assign", model, new, out),
        ("intervals", model, new),
        ("report", model, tmp_path / "page.html", "--store", new),
    ):
        said = " ".join(refuse(*command).split())
        assert "column 'sex' has the levels 'F' (the reference), 'M' in the model" in said
        assert "the levels 'E' (the reference), 'M' in the store" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "new.parquet"]
    fitted = MixedLinearRegression(2, random_state=0).fit(folder / "first")
    for use in (fitted.partial_fit, fitted.assign, fitted.uncertainty, fitted.model_.assign):
        with pytest.raises(FeatureMismatchError, match=r"'sex' has the levels 'F' .*'E'"):
            use(open_tasks(new))


def test_a_fit_is_not_resumed_with_another_reference_level(folder, tmp_path):
    table = visits(0, 300).replace({"sex": {"F": "E"}})
    other = ingest(table, tmp_path / "other", task="patient", target="score")
    parameters = MixedLinearRegression(2, random_state=0).get_params()

    def begun(tasks, *, resume):
        with checkpointing(tmp_path / "kept", tasks, parameters, resume=resume) as kept:
            kept.keep("stage", np.ones(1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        begun(open_tasks(folder / "first"), resume=False)
    with pytest.raises(CheckpointError, match=r"is of another run: .*store facts"):
        begun(other, resume=True)


def test_a_store_without_an_encoding_is_taken_by_its_names(folder, tmp_path):
    first = open_tasks(folder / "first")
    block = first.read_block(0)
    with create_tasks(tmp_path / "plain", feature_names=first.feature_names) as writer:
        writer.write(block.X, block.y, block.sizes)
    labels = Model.load(folder / "model").assign(open_tasks(tmp_path / "plain"))["label"]
    assert len(labels) == 300
