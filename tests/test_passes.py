"""The throughput benchmark: it runs, and refuses to compare what cannot be compared."""

from dataclasses import replace

import pytest

from tests.benchmarks import passes, roofline


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    out = tmp_path_factory.mktemp("passes") / "passes.jsonl"
    passes.main(
        ["--features", "4", "--gigabytes", "0.001", "--rounds", "1", "--cold", "--json", str(out)]
    )
    return passes.load(out), out


def test_every_pass_is_measured_warm_and_cold(measured):
    results, out = measured
    names = [*passes.OF_READING, "moments, all pairs", "refinement", passes.READ_ONLY]
    assert sorted({r.name for r in results}) == sorted(names)
    assert len(results) == 10
    assert len(out.read_text().splitlines()) == 10
    assert all(r.bytes_read == 4 * 5 * r.n_rows and r.seconds[0] > 0 for r in results)
    warm, cold = results[:5], results[5:]
    assert [r.checksum for r in warm] == [r.checksum for r in cold]


def test_a_run_equals_itself(measured, capsys):
    path = str(measured[1])
    passes.main(["--compare", path, path])
    assert capsys.readouterr().out.count("| 1.00 |") == 10


def test_other_work_is_not_compared(measured):
    results = measured[0]
    with pytest.raises(ValueError, match="did not do the same work"):
        passes.compare(results, [replace(results[0], n_rows=7), *results[1:]])


def test_other_results_are_not_compared(measured):
    results = measured[0]
    wrong = replace(results[1], checksum=results[1].checksum * 1.01)
    with pytest.raises(ValueError, match=r"moments, split gave .* before and"):
        passes.compare(results, [results[0], wrong, *results[2:]])


def test_a_miss_is_marked():
    assert passes._marked(0.5, 0.85) == "0.50 (wanted 0.85)"
    assert passes._marked(0.9, 0.85) == "0.90"


def test_the_roofline_is_drawn(measured, tmp_path):
    picture = tmp_path / "roofline.png"
    roofline.main([str(measured[1]), str(picture)])
    assert picture.read_bytes()[:4] == b"\x89PNG"
    by_name = {r.name: roofline.operations(r) for r in measured[0]}
    assert by_name[passes.READ_ONLY] == 0
    assert by_name["moments, all pairs"] > by_name["moments, split"] > 0


def test_a_profile_says_where_the_time_goes(capsys):
    passes.main(["--features", "4", "--gigabytes", "0.001", "--profile"])
    shown = capsys.readouterr().out
    assert shown.count("| refinement | ") == 10
    assert "moments_from_block" in shown
