"""The report of a model in a bucket, written into the bucket."""

from click.testing import CliRunner

from daskmlr import MixedLinearRegression
from daskmlr.cli import main
from daskmlr.storage.location import locate


def test_a_report_goes_from_bucket_to_bucket(bucket, easy_tasks):
    model, out = f"{bucket}/model", f"{bucket}/reports/out.html"
    fitted = MixedLinearRegression(3, random_state=0).fit(easy_tasks, client="sync")
    fitted.model_.save(model)
    result = CliRunner().invoke(main, ["report", model, out])
    assert result.exit_code == 0, result.output
    page = locate(f"{bucket}/reports").read("out.html")
    assert page.startswith(b"<!DOCTYPE html>")
    again = CliRunner().invoke(main, ["report", model, out])
    assert again.exit_code == 1
    assert "exists" in again.output
    assert locate(f"{bucket}/reports").read("out.html") == page
