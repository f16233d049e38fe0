"""The engine: what memory and threads it gets, and that its scratch folder goes."""

import pytest

from daskmlr.errors import PlanError
from daskmlr.ingestion import engine as engine_module
from daskmlr.ingestion.engine import MIB, Engine, engine_memory


def test_memory_is_divided():
    assert engine_memory("1000MiB", 300 * MIB) == 700 * MIB
    assert engine_memory(1000 * MIB, 300 * MIB) == 700 * MIB
    assert engine_memory(None, 0) > 0
    with pytest.raises(PlanError, match=r"360.00 MiB, of which 300.00 MiB .* 60.00 MiB are left"):
        engine_memory("360MiB", 300 * MIB)


@pytest.mark.parametrize(("reading", "threads"), [(0, 2), (400 * MIB, 1), (4000 * MIB, 1)])
def test_fewer_threads_where_each_needs_much(tmp_path, monkeypatch, reading, threads):
    monkeypatch.setattr(engine_module, "CPU_COUNT", 2)
    with Engine(tmp_path, "out", 500 * MIB, None) as engine:
        engine.set_threads(reading)
        assert engine.row("SELECT current_setting('threads') AS n") == {"n": threads}
        assert [entry.name[:12] for entry in tmp_path.iterdir()] == [".out.ingest-"]
    assert list(tmp_path.iterdir()) == []
