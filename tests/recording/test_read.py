"""A search is read back from its run, from a trial's run too, and written as a page."""

import pytest
from click.testing import CliRunner

from mlflow_compress.cli.main import cli
from mlflow_compress.errors import SourceNotFoundError
from mlflow_compress.recording.read import read_search
from mlflow_compress.records import Recipe, Trial
from tests.recording.test_search import make_trial, search, tracker  # noqa: F401

BROKEN = Trial(7, "key7", Recipe(), "failed", error="no such layer")


def test_a_search_comes_back(tracker, make_trial):  # noqa: F811
    done = search(tracker, [make_trial(), make_trial(1, "key1"), BROKEN])
    found = read_search(tracker.client, tracker.search_run_id)
    assert found.name == "lenet-edge"
    assert found.source == "models:/lenet/1"
    assert {t.key: t.variant for t in found.trials} == {t.key: t.variant for t in done if t.variant}
    assert found.failed == (("lossless", "no such layer"),)
    assert found.decisions == ()
    one = done[0].variant.run_id
    assert read_search(tracker.client, one) == found


def test_trials_of_an_earlier_search_of_the_source_are_there_too(tracker, make_trial):  # noqa: F811
    search(tracker, [make_trial(), BROKEN])
    search(tracker, [make_trial(1, "key1")])
    found = read_search(tracker.client, tracker.search_run_id)
    assert {trial.key for trial in found.trials} == {"key0", "key1"}
    assert found.failed == ()


def test_other_runs_are_refused(tracker):  # noqa: F811
    run = tracker.client.create_run(tracker.experiment_id)
    for run_id in (run.info.run_id, "0" * 32, "no such run"):
        with pytest.raises(SourceNotFoundError, match=f"run '{run_id}'"):
            read_search(tracker.client, run_id)


def test_the_command_writes_a_page_and_replaces_none(tracker, make_trial, tmp_path, store_uri):  # noqa: F811
    search(tracker, [make_trial()])
    path = tmp_path / "report.html"
    command = ["report", tracker.search_run_id, "-o", str(path), "--tracking-uri", store_uri]
    first = CliRunner().invoke(cli, command)
    assert first.exit_code == 0, first.output
    assert "prune 0.9 · share 16" in path.read_text(encoding="utf-8")
    second = CliRunner().invoke(cli, command)
    assert second.exit_code == 2
    assert "--force" in second.output
    assert CliRunner().invoke(cli, [*command, "--force"]).exit_code == 0
    assert sorted(p.name for p in tmp_path.iterdir() if "report" in p.name) == ["report.html"]


def test_a_digest_that_somebody_wrote_is_no_part_of_the_query(tracker, make_trial):  # noqa: F811
    search(tracker, [make_trial()])
    tracker.client.set_tag(tracker.search_run_id, "compress.source_digest", "' OR tags.x = '")
    assert read_search(tracker.client, tracker.search_run_id).trials
