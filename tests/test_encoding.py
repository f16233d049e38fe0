"""Columns of a data frame to features and back to a dict."""

import datetime as dt
import decimal
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daskmlr.encoding import FeatureEncoding, check_levels
from daskmlr.errors import FeatureMismatchError, InputError

ENCODING = FeatureEncoding(("x", "c", "z"), {"c": ("a", "b", "d")})


def frame(**columns):
    return pd.DataFrame({"z": [1, 2, 3], "x": [0.5, 1.5, -2.0], "c": ["d", "a", "b"]} | columns)


def test_one_hot_without_the_reference_level_in_the_order_of_the_columns():
    assert ENCODING.feature_names == ("x", "c=b", "c=d", "z")
    np.testing.assert_array_equal(
        ENCODING.encode(frame()),
        [[0.5, 0, 1, 1], [1.5, 0, 0, 2], [-2, 1, 0, 3]],
    )


@given(st.data())
def test_agrees_with_a_loop_over_rows(data):
    levels = data.draw(st.lists(st.text(max_size=3), min_size=2, max_size=6, unique=True))
    codes = data.draw(st.lists(st.integers(0, len(levels) - 1), max_size=20))
    encoding = FeatureEncoding(("c", "x"), {"c": tuple(levels)})
    table = pd.DataFrame({"x": np.arange(len(codes)), "c": [levels[i] for i in codes]})
    got = encoding.encode(table)
    assert got.shape == (len(codes), len(levels))
    for row, code in enumerate(codes):
        assert got[row].tolist() == [float(code == j) for j in range(1, len(levels))] + [row]


@given(st.data())
def test_the_dict_goes_through_json(data):
    names = data.draw(st.lists(st.text(min_size=1), min_size=1, max_size=5, unique=True))
    some = data.draw(st.sets(st.sampled_from(names)))
    levels = st.one_of(
        st.lists(st.text(), min_size=2, max_size=4, unique=True),
        st.lists(st.integers(-(2**53), 2**53), min_size=2, max_size=4, unique=True),
    )
    encoding = FeatureEncoding(tuple(names), {name: tuple(data.draw(levels)) for name in some})
    assert FeatureEncoding.from_dict(json.loads(json.dumps(encoding.to_dict()))) == encoding


@pytest.mark.parametrize(
    "values",
    [
        pd.Series([True, False, True]),
        pd.Series([1, 0, 1], dtype="Int64"),
        pd.Series([1, 0, 1], dtype="uint8"),
        pd.Series([1, 0, 1], dtype="float32"),
        pd.Series([True, False, True], dtype="boolean"),
        pd.Series([decimal.Decimal("1.0"), decimal.Decimal(0), decimal.Decimal(1)]),
        pd.Series([1, 0, 1], dtype="int64[pyarrow]"),
    ],
    ids=lambda series: str(series.dtype),
)
def test_numeric_dtypes(values):
    assert ENCODING.encode(frame(x=values))[:, 0].tolist() == [1, 0, 1]


@pytest.mark.parametrize("dtype", ["object", "str", "string", "category", "string[pyarrow]"])
def test_text_dtypes(dtype):
    table = frame(c=pd.Series(["d", "a", "b"]).astype(dtype))
    assert ENCODING.encode(table)[:, 1:3].tolist() == [[0, 1], [0, 0], [1, 0]]


@pytest.mark.parametrize("dtype", ["int64", "float64", "Int64", "category"])
def test_categories_that_are_whole_numbers(dtype):
    encoding = FeatureEncoding(("month",), {"month": (2, 11)})
    assert encoding.feature_names == ("month=11",)
    table = pd.DataFrame({"month": pd.Series([11, 2]).astype(dtype)})
    assert encoding.encode(table).tolist() == [[1], [0]]


@given(st.data())
def test_categorical_columns_are_encoded_as_their_values_are(data):
    values = data.draw(st.sampled_from([("a", "b", "d"), (2, 5, 11)]))
    levels = data.draw(st.permutations([*values, values[0] * 7]))  # one that no row has
    rows = data.draw(st.lists(st.sampled_from(values), max_size=20))
    encoding = FeatureEncoding(("c",), {"c": values})
    plain = pd.DataFrame({"c": pd.Series(rows, dtype=object)})
    coded = plain.astype({"c": pd.CategoricalDtype(levels)})
    np.testing.assert_array_equal(encoding.encode(coded), encoding.encode(plain))


def test_a_category_that_is_not_known_among_the_categories():
    table = frame(c=pd.Categorical(["d", "zz", "a"]))
    with pytest.raises(InputError, match=r"'c' has 1 values that are no known.*'zz' in row 1"):
        ENCODING.encode(table)


def test_a_table_without_rows():
    assert ENCODING.encode(frame().iloc[:0]).shape == (0, 4)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (frame().rename(columns={"c": "carrier"}), r"column 'c' is not in the table: there are"),
        (frame().rename(columns={"x": "X"}), r"column 'x' is not in the table: did you mean 'X'"),
        (frame(c=["d", "zz", "zz"]), r"'c' has 2 values that are no known.*'zz' in row 1"),
        (frame(c=["d", None, "a"]), r"'c' has 1 missing.*row 1"),
        (frame(x=["0.5", "oops", "1"]), r"'x' has 3 values that are not numbers.*'0.5' in row 0"),
        (frame(x=[1.0, 2.0, "three"]), r"'x' has 1 values that are not numbers.*'three' in row 2"),
        (frame(x=[1.0, np.nan, np.nan]), r"'x' has 2 missing.*row 1"),
        (frame(x=pd.Series([1, 2, None], dtype="Int64")), r"'x' has 1 missing.*row 2"),
        (frame(x=[1.0, np.inf, 0]), r"'x' has 1 infinite.*inf.* in row 1"),
        (frame(x=pd.Timestamp("2020-01-01")), r"'x' holds times.*weekday"),
        (frame(x=pd.Timedelta("1h")), r"'x' holds times"),
        (pd.concat([frame(), frame()], axis=1), r"2 columns named 'x'"),
    ],
)
def test_tables_that_cannot_be_encoded(table, message):
    with pytest.raises(InputError, match=message):
        ENCODING.encode(table)


def test_the_row_is_named_by_its_label():
    table = frame(x=[1.0, np.nan, 0.0])
    table.index = ["r1", "r2", "r3"]
    with pytest.raises(InputError, match="in row 'r2'"):
        ENCODING.encode(table)


def test_objects_that_are_neither_number_nor_text():
    with pytest.raises(InputError, match=r"'x' has 3 values that are not numbers.*row 0"):
        ENCODING.encode(frame(x=[dt.date(2020, 1, 1)] * 3))


def levels(**categories):
    return {"columns": [*categories], "categories": categories}


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        (
            levels(sex=["E", "M"]),
            r"'sex' has the levels 'F' \(the reference\), 'M' in the model, the levels 'E' "
            r"\(the reference\), 'M' in it \(it lacks \['F'\] and has \['E'\] besides\)",
        ),
        (levels(sex=["M", "F"]), "another order"),
        (levels(sex=["F", "M", "X"]), r"has \['X'\] besides"),
        (levels(), r"no levels \(it is numeric, or not there\) in it"),
        (levels(sex=["F", "M"], town=["A", "B"]), r"'town' has no levels .* in the model"),
        (levels(sex=[f"L{i}" for i in range(20)]), "'L7' and 12 more in it"),
    ],
)
def test_other_levels_than_the_models_are_refused(theirs, message):
    with pytest.raises(FeatureMismatchError, match=message):
        check_levels(theirs, levels(sex=["F", "M"]), "it")


def test_equal_levels_and_unknown_ones_are_let_through():
    ours = levels(month=[1, 2], sex=["F", "M"])
    for theirs in (ours, levels(month=["1", "2"], sex=["F", "M"]), None):
        check_levels(theirs, ours, "it")
        check_levels(ours, theirs, "it")


@pytest.mark.parametrize(
    ("columns", "categories", "message"),
    [
        (("x", "y", "x"), {}, r"given twice: \['x'\]"),
        (("x",), {"x": ("a",)}, r"'x' has one category only \('a'\)"),
        (("x",), {"x": ()}, r"'x' has no categories"),
        (("x",), {"x": ("a", "b", "a")}, "repeated categories"),
        (("carrier",), {"carier": ("a", "b")}, "did you mean 'carrier'"),
    ],
)
def test_encodings_that_make_no_sense(columns, categories, message):
    with pytest.raises(InputError, match=message):
        FeatureEncoding(columns, categories)
