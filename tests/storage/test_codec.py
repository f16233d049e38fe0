"""The codec is chosen by what it does to the first block, and said in words."""

import numpy as np
import pytest
import zarr

from daskmlr.storage import layout
from daskmlr.storage.tasks import open_tasks
from daskmlr.storage.writing import create_tasks


def write(path, X, *, block_rows, dtype="float64"):
    names = [f"x{j}" for j in range(X.shape[1])]
    block_bytes = block_rows * (len(names) + 1) * np.dtype(dtype).itemsize
    y = np.random.default_rng(1).normal(size=len(X))
    with create_tasks(path, feature_names=names, dtype=dtype, block_bytes=block_bytes) as writer:
        writer.write(X, y, np.full(len(X) // 10, 10))
    store = open_tasks(path)
    X_read = np.concatenate([store.read_block(i).X for i in range(store.n_blocks)])
    np.testing.assert_array_equal(X_read, X.astype(dtype))
    np.testing.assert_array_equal(zarr.open(path)["x"][: len(X)], X.astype(dtype))
    store.validate(deep=True)
    return store


def columns(kind, n=8000, d=6):
    rng = np.random.default_rng(0)
    if kind == "random":
        return rng.normal(size=(n, d))
    if kind == "rounded":
        return rng.normal(100, 30, size=(n, d)).round()
    if kind == "categorical":
        return np.eye(d)[rng.integers(d, size=n)]
    return np.column_stack([rng.normal(size=(n, d - 1)), np.ones(n)])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["random", "one constant among random"])
def test_random_floats_are_stored_as_they_are(tmp_path, kind, dtype):
    store = write(tmp_path / "t", columns(kind), block_rows=2000, dtype=dtype)
    assert store.codec == "uncompressed, CRC32C for every chunk"
    chunk = tmp_path / "t" / "x" / "c" / "1" / "0"
    assert chunk.stat().st_size == 2000 * 6 * store.itemsize + 4
    raw = np.frombuffer(chunk.read_bytes()[:-4], dtype=dtype).reshape(2000, 6)
    np.testing.assert_array_equal(raw, columns(kind)[2000:4000].astype(dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["rounded", "categorical"])
def test_what_compresses_is_compressed(tmp_path, kind, dtype):
    store = write(tmp_path / "t", columns(kind), block_rows=2000, dtype=dtype)
    assert store.codec in {
        f"Blosc {name} with byte shuffle, CRC32C for every chunk" for name in ("lz4", "zstd")
    }
    stored = sum(p.stat().st_size for p in (tmp_path / "t" / "x" / "c").rglob("*") if p.is_file())
    assert stored < columns(kind).astype(dtype).nbytes / layout.WORTH_COMPRESSING


def test_zstd_where_it_gains_enough_over_lz4(tmp_path):
    assert layout.choose_codec(columns("categorical", 20_000)) == "zstd"
    assert layout.choose_codec(np.zeros((20_000, 6))) in ("lz4", "zstd")


def test_the_first_block_decides_for_all(tmp_path):
    X = np.concatenate([columns("random", 2000), columns("rounded", 6000)])
    assert write(tmp_path / "t", X, block_rows=2000).codec.startswith("uncompressed")
    other = write(tmp_path / "u", X[::-1], block_rows=2000)
    assert other.codec.startswith("Blosc")


def test_a_store_of_one_row(tmp_path):
    with create_tasks(tmp_path / "t", feature_names=["a"]) as writer:
        writer.write([[0.1]], [1.0], [1])
    assert open_tasks(tmp_path / "t").read_block(0).X.tolist() == [[0.1]]
