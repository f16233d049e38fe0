"""The benchmark of the scheduler, small."""

from tests.benchmarks import scheduler


def test_a_pass_over_blocks_that_sleep(capsys):
    scheduler.main(
        ["--workers", "2", "--leaves", "30", "--leaves-per-worker", "2", "--seconds", "0.1"]
    )
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:5]] for line in lines[2:4]]
    assert rows == [["2", "30", "41", "0"], ["2", "4", "5", "0.1"]]
    assert lines[-1].startswith("graph of 32,768 leaves: 43,691 graph tasks")
