"""What users hand in by mistake, and what they are told."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from daskmlr import InputError, MixedLinearRegression
from daskmlr.errors import FeatureMismatchError


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    shop = np.repeat([f"s{i:03d}" for i in range(200)], 6)
    frame = pd.DataFrame({"price": rng.normal(5, 1, 1200), "area": rng.normal(300, 40, 1200)})
    slope = np.where(np.repeat(np.arange(200), 6) % 2, 3.0, -2.0)
    frame["sales"] = slope * frame["price"] + 0.05 * frame["area"] + rng.normal(0, 0.3, 1200)
    return frame.assign(shop=shop, region=np.where(slope > 0, "north", "south"))


FEATURES = ["price", "area"]


@pytest.fixture(scope="module")
def fitted(table) -> MixedLinearRegression:
    return MixedLinearRegression(2, random_state=0).fit(
        table[FEATURES], table["sales"], groups=table["shop"]
    )


def support(table, features=FEATURES, shop="s003"):
    own = table[table["shop"] == shop]
    return own[features], own["sales"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["area", "price"], r"they are in another order. Give X\[model.feature_names_in_\]"),
        (["price"], r"it lacks \['area'\]. Give the features of the model, in its order"),
        (["price", "area", "size"], r"it has \['size'\] besides. Give X\[model.feature_names_in_"),
        (["price", "region"], r"it lacks \['area'\] and has \['region'\] besides"),
    ],
)
def test_columns_of_other_names_are_refused(fitted, table, columns, message):
    table = table.assign(size=1.0)
    n = len(columns)
    with pytest.raises(FeatureMismatchError, match=f"X has {n}: {message}"):
        fitted.predict(table[columns], support=support(table))
    with pytest.raises(FeatureMismatchError, match=f"X of the support has {n}: {message}"):
        fitted.predict(table[FEATURES], support=support(table, columns))


def test_the_features_are_put_in_order_as_the_error_says(fitted, table):
    X = table[["area", "region", "price"]]
    expected = fitted.predict(table[FEATURES])
    np.testing.assert_array_equal(fitted.predict(X[fitted.feature_names_in_]), expected)
    np.testing.assert_array_equal(fitted.predict(X[list(fitted.model_.feature_names)]), expected)


def test_arrays_have_no_names_to_check(fitted, table):
    by_name = fitted.predict(table[FEATURES], support=support(table))
    X, y = support(table)
    by_place = fitted.predict(table[FEATURES].to_numpy(), support=(X.to_numpy(), y.to_numpy()))
    np.testing.assert_array_equal(by_name, by_place)


def test_groups_without_groups_of_the_support_are_refused(fitted, table):
    with pytest.raises(InputError, match=r"give support=\(X, y, groups\)"):
        fitted.predict(table[FEATURES], support=support(table), groups=table["shop"])


@pytest.mark.parametrize("groups", [np.arange(1200), np.repeat(["3"], 1200)])
def test_tasks_none_of_which_has_support_are_refused(fitted, table, groups):
    known = (table[FEATURES], table["sales"], table["shop"])
    kind = type(groups.item(0)).__name__
    message = rf"no task of X has support: .* \({kind}\), .* the support 's000' \(str\)"
    with pytest.raises(InputError, match=message):
        fitted.predict(table[FEATURES], support=known, groups=groups)


def test_a_column_of_text_is_named(table):
    with pytest.raises(InputError, match=r"column 'region' of X is not numeric .*get_dummies"):
        MixedLinearRegression(2).fit(
            table[[*FEATURES, "region"]], table["sales"], groups=table["shop"]
        )


def test_a_target_of_text_is_refused(table):
    with pytest.raises(InputError, match="y must be an array of numbers, got"):
        MixedLinearRegression(2).fit(table[FEATURES], table["region"], groups=table["shop"])


def test_a_missing_value_is_named(table):
    holed = table[FEATURES].copy()
    holed.loc[7, "area"] = np.nan
    with pytest.raises(InputError, match=r"'area'.*s001|s001.*'area'"):
        MixedLinearRegression(2).fit(holed, table["sales"], groups=table["shop"])


@pytest.mark.parametrize("dtype", ["float64", "Float64", "object"])
def test_missing_targets_are_counted(fitted, table, dtype):
    y = table["sales"].mask(table.index.isin([7, 9])).astype(dtype)
    for call in (MixedLinearRegression(2).fit, fitted.assign):
        with pytest.raises(InputError, match=r"^y has 2 NaN .*, the first in row 7: leave such"):
            call(table[FEATURES], y, groups=table["shop"])


def test_whole_numbers_are_task_ids_as_floats_too(table):
    X, y = table[FEATURES], table["sales"]
    groups = np.repeat(np.arange(200.0), 6)
    fitted = MixedLinearRegression(2, random_state=0).fit(X, y, groups=groups)
    assert fitted.task_ids_.dtype == np.int64
    with pytest.raises(InputError, match=r"got 0\.5 \(float\): convert them with astype"):
        MixedLinearRegression(2).fit(X, y, groups=groups + 0.5)


def test_series_give_their_names(fitted):
    assert (fitted.model_.target_name, fitted.model_.task_name) == ("sales", "shop")


def test_a_name_that_labels_bear_is_left(table):
    fitted = MixedLinearRegression(2, random_state=0).fit(
        table[FEATURES], table["sales"], groups=table["shop"].rename("label")
    )
    assert fitted.model_.task_name == "task"
    assert fitted.task_ids_[0] == "s000"


@pytest.mark.parametrize(
    ("known", "wanted", "message"),
    [
        ([1, "2"], [1, 2], "groups of the support has ids of types int and str"),
        ([1, 2], np.array([1, "b"], dtype=object), "groups has ids of types int and str"),
        (["1", "2"], [1, 2], r"first is 1 \(int\), the first of the support '1' \(str\)"),
        ([1, 2], [1.5, 2], r"got 1\.5 \(float\): convert"),
        ([1, None], [1, 2], "groups of the support has 1 missing values, the first in row 1"),
    ],
)
def test_ids_of_several_types_are_refused(fitted, table, known, wanted, message):
    X = table[FEATURES][:2]
    with pytest.raises(InputError, match=message):
        fitted.predict(X, support=(X, [1.0, 2.0], known), groups=wanted)


def test_whole_numbers_are_ids_whatever_their_type(fitted, table):
    X, y = table[FEATURES][:2], [1.0, 2.0]
    expected = fitted.predict(X, support=(X, y, [7, 8]), groups=[8, 9])
    got = fitted.predict(X, support=(X, y, [7.0, 8.0]), groups=pd.Series([8, 9], dtype="Int64"))
    np.testing.assert_array_equal(got, expected)


def test_a_task_that_is_missing_is_said_by_its_row(table):
    groups = table["shop"].mask(table.index == 5)
    with pytest.raises(InputError, match="groups has 1 missing values, the first in row 5"):
        MixedLinearRegression(2).fit(table[FEATURES], table["sales"], groups=groups)


def test_times_are_no_numbers(table):
    X = pd.DataFrame({"when": pd.date_range("2020", periods=len(table))})
    with pytest.raises(InputError, match=r"column 'when' of X is not numeric .it holds times"):
        MixedLinearRegression(2).fit(X, table["sales"], groups=table["shop"])


def test_the_names_of_an_array_are_held_against_each_other_only(table):
    X, y = table[FEATURES].to_numpy(), table["sales"]
    fitted = MixedLinearRegression(2, random_state=0).fit(X, y, groups=table["shop"])
    fitted.predict(table[FEATURES])
    with pytest.raises(FeatureMismatchError, match="another order"):
        fitted.predict(pd.DataFrame(X, columns=["x1", "x0"]))


def test_errors_of_arrays_name_no_path_of_ours(table):
    with pytest.raises(InputError, match=r"^n_components=201 is more than the 200 tasks of X, y"):
        MixedLinearRegression(201).fit(table[FEATURES], table["sales"], groups=table["shop"])
