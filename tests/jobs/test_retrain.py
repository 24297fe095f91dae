"""The job for schedulers: nothing twice, one at a time, and nothing left behind by the dead."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from click.testing import CliRunner
from onnx import numpy_helper

from mlflow_compress.cli.main import cli
from mlflow_compress.errors import BusyError, DataError, SourceError, UnreachableError
from mlflow_compress.jobs import compress as job
from mlflow_compress.recording import retrain as job_runs
from mlflow_compress.recording.retrain import GONE_SECONDS, JobRuns
from mlflow_compress.tracking.experiments import name_experiment
from mlflow_compress.tracking.models import ensure_model
from mlflow_compress.tracking.owner import owner
from tests.tiny import tiny_model

COMMAND = [sys.executable, "-c", "from mlflow_compress.cli.main import main; main()", "retrain"]
IMPOSSIBLE = {
    "targets": [{"name": "device", "limits": {"size": "100B"}, "accuracy": {"max_drop": 0.25}}]
}


def write(project, folder=None, **changes):
    path = (folder or project.folder) / "compress.yaml"
    path.write_text(yaml.safe_dump(project.config | {"source": "models:/tiny@champion"} | changes))
    return path


def register_source(project):
    """Register one more version of the source and let the alias point to it."""
    import mlflow

    mlflow.set_tracking_uri(project.config["tracking_uri"])
    info = mlflow.onnx.log_model(
        tiny_model(), name="tiny", registered_model_name="tiny", save_as_external_data=False
    )
    version = info.registered_model_version
    project.client.set_registered_model_alias("tiny", "champion", str(version))


def retrain(path, *args):
    """Run the command; return its exit code and the one line it printed."""
    done = CliRunner().invoke(cli, ["retrain", str(path), "--json", *args], catch_exceptions=False)
    (line,) = done.stdout.splitlines()
    said = json.loads(line)
    assert said["exit_code"] == done.exit_code
    return said


def jobs(client, status):
    experiments = [one.experiment_id for one in client.search_experiments()]
    query = f"tags.`compress.kind` = 'retrain' AND attributes.status = '{status}'"
    return client.search_runs(experiments, query)


def searches(client):
    experiments = [one.experiment_id for one in client.search_experiments()]
    return len(client.search_runs(experiments, "tags.`compress.kind` = 'search'"))


def test_a_source_version_is_compressed_once(project, tmp_path_factory):
    register_source(project)
    path = write(project)
    first = retrain(path)
    assert first["source"] == "models:/tiny/1"
    assert first["registered_model"] == "tiny-edge"
    assert first["trials"] == {"run": 1, "reused": 0, "failed": 0, "dropped": 0}
    (target,) = first["targets"]
    assert (target["target"], target["outcome"], target["version"]) == ("device", "promoted", 1)
    assert target["rate"] > 1
    assert 0 <= target["drop"] < 0.25
    assert (first["skipped"], first["error"], first["exit_code"]) == (False, None, 0)

    # The same again, from a checkout elsewhere and with more workers.
    other = tmp_path_factory.mktemp("elsewhere")
    (other / "rows.npz").write_bytes((project.folder / "rows.npz").read_bytes())
    again = retrain(write(project, other, search={"latency_rounds": 2, "workers": 2}))
    assert again["skipped"]
    assert again["targets"] == first["targets"]
    assert again["trials"]["run"] == 0
    assert searches(project.client) == 1

    register_source(project)
    second = retrain(path)
    assert (second["source"], second["skipped"]) == ("models:/tiny/2", False)
    assert jobs(project.client, "RUNNING") == []


@pytest.fixture
def finished(project):
    path = write(project, source="tiny.onnx")
    assert not retrain(path)["skipped"]
    return project, path


@pytest.mark.parametrize(("said", "retrained", "run"), [(None, False, True), (True, True, True),
                                                        (False, False, False)])  # fmt: skip
def test_code_in_a_source_runs_unasked_only_where_a_person_names_it(
    project, monkeypatch, said, retrained, run
):
    register_source(project)
    path = write(project, **({} if said is None else {"trust": said}))
    asked = []

    def refuse(*_, trust=False, **__):
        asked.append(trust)
        raise SourceError("seen")

    monkeypatch.setattr(job, "resolve", refuse)
    assert retrain(path)["exit_code"] == 2
    assert CliRunner().invoke(cli, ["run", str(path)]).exit_code == 2
    assert asked == [retrained, run]


def test_what_changes_the_outcome_is_a_new_job(finished):
    project, path = finished
    assert retrain(path)["skipped"]
    assert not retrain(path, "--set", "search.seed=1")["skipped"]
    with np.load(project.folder / "rows.npz") as file:
        rows = {key: array[:60] for key, array in file.items()}
    np.savez(project.folder / "rows.npz", **rows)
    assert not retrain(path)["skipped"]
    assert retrain(path)["skipped"]
    model = tiny_model()
    first = model.graph.initializer[0]
    first.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(first), first.name))
    onnx.save(model, project.folder / "tiny.onnx")
    said = retrain(path)
    assert (said["skipped"], said["exit_code"]) == (False, 0), said["error"]


def test_a_verdict_ends_with_the_versions_that_it_names(finished):
    project, path = finished
    project.client.delete_registered_model("tiny-edge")
    said = retrain(path)
    assert not said["skipped"]
    assert said["targets"][0]["version"] == 1


def test_a_verdict_that_none_is_feasible_is_repeated_with_its_exit_code(project):
    path = write(project, source="tiny.onnx", **IMPOSSIBLE)
    first = retrain(path)
    assert (first["exit_code"], first["skipped"]) == (3, False), first["error"]
    assert first["targets"][0]["outcome"] == "none feasible"
    again = retrain(path)
    assert (again["exit_code"], again["skipped"]) == (3, True)
    assert again["targets"] == first["targets"]
    shown = CliRunner().invoke(cli, ["retrain", str(path)])
    assert shown.exit_code == 3
    assert "nothing to do" in shown.stdout
    assert "device: none feasible" in shown.stdout


def test_errors_are_one_line_of_json_too_and_no_verdict(project):
    said = retrain(write(project, source="none.onnx"))
    assert said["exit_code"] == 4
    assert "none.onnx" in said["error"]
    said = retrain(project.folder / "none.yaml")
    assert said["exit_code"] == 2
    assert said["source"] is None
    recipe = [{"prune": {"sparsity": 0.5, "exclude": ["nothing"]}}]
    path = write(project, source="tiny.onnx", recipe=recipe)
    for _ in range(2):
        said = retrain(path)
        assert said["exit_code"] == 1
        assert "all 1 trials failed" in said["error"]
        assert not said["skipped"]
    assert jobs(project.client, "RUNNING") == []


ROWS = "import sys, numpy as np\ndef rows():\n    return dict(np.load('rows.npz'))\n"
EXITS = {
    "in the module": ({"evaluation": "exits.py:rows"}, ROWS + "sys.exit(%s)\n"),
    "in the function": ({"evaluation": "exits.py:rows"}, "import sys\ndef rows(): sys.exit(%s)\n"),
    "in a loader": (
        {"evaluation": "exits.py:rows"},
        "import sys\ndef rows():\n    sys.exit(%s)\n    yield {}\n",
    ),
    "in a metric": (
        {"evaluation": "rows.npz", "metric": "exits.py:score"},
        "import sys\ndef score(outputs, labels): sys.exit(%s)\n",
    ),
}


@pytest.mark.parametrize("command", ["run", "retrain"])
@pytest.mark.parametrize(("where", "code"), list(zip(EXITS, ["", "6", "0", "6"], strict=True)))
def test_functions_that_leave_are_failures(project, monkeypatch, where, command, code):
    monkeypatch.chdir(project.folder)
    data, text = EXITS[where]
    (project.folder / "exits.py").write_text(text % code)
    path = write(project, source="tiny.onnx", data=data)
    done = CliRunner().invoke(cli, [command, str(path)])
    assert done.exit_code == 1
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert f"called sys.exit({code})" in line
    if command == "retrain":
        said = retrain(path)
        assert said["exit_code"] == 1
        assert said["error"] in line


def test_what_functions_print_does_not_get_into_the_line(project):
    (project.folder / "shouting.py").write_text(
        "import os, numpy as np\n"
        "def rows():\n"
        "    print('loaded!')\n"
        "    os.write(1, b'from below\\n')\n"
        f"    return dict(np.load({str(project.folder / 'rows.npz')!r}))\n"
    )
    path = write(project, source="tiny.onnx", data={"evaluation": "shouting:rows"})
    done = run(path, env=here(project.folder))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["exit_code"] == 0
    assert done.stdout.count("\n") == 1
    assert "loaded!" in done.stderr
    assert "from below" in done.stderr


def here(*more):
    root = str(Path(__file__).parents[2])
    return os.environ | {"PYTHONPATH": os.pathsep.join([root, *map(str, more)])}


def run(path, *args, env=None):
    return subprocess.run(
        [*COMMAND, str(path), "--json", *args],
        capture_output=True, text=True, check=False, env=env,
    )  # fmt: skip


def foreign(client, model="tiny-edge", *, who="elsewhere:1", silent=0.0):
    """Leave the open run of a job on another host that was heard of ``silent`` seconds ago."""
    experiment = client.create_experiment(f"other {random.random()}")
    ensure_model(client, model)
    name_experiment(client, model, experiment)
    beat = int((time.time() - silent) * 1000)
    tags = {
        "compress.kind": "retrain",
        "compress.model": model,
        "compress.owner": who,
        "compress.state": "working",
        "compress.beat": str(beat),
    }
    return client.create_run(experiment, tags=tags).info.run_id


def test_a_second_job_on_the_model_ends_with_6(project):
    client, path = project.client, write(project, source="tiny.onnx")
    run_id = foreign(client)
    said = retrain(path)
    assert said["exit_code"] == 6
    assert "'tiny-edge' (elsewhere:1, since" in said["error"]
    assert searches(client) == 0
    # Another model is no matter of that job.
    assert retrain(path, "--set", "register_as=other")["exit_code"] == 0
    client.set_terminated(run_id)
    assert retrain(path)["exit_code"] == 0


def test_runs_of_others_do_not_pass_for_jobs(project):
    # Anybody may write such a run; only who may edit the registered model names experiments.
    experiment = project.client.create_experiment("somebody's")
    tags = project.client.get_run(foreign(project.client, "other-edge")).data.tags
    project.client.create_run(experiment, tags=tags | {"compress.model": "tiny-edge"})
    assert retrain(write(project, source="tiny.onnx"))["exit_code"] == 0


def test_wait_waits_for_the_job_at_work(project, monkeypatch):
    monkeypatch.setattr(job_runs, "_POLL_SECONDS", 0.1)
    path = write(project, source="tiny.onnx")
    run_id = foreign(project.client)
    ending = threading.Timer(1.0, lambda: project.client.set_terminated(run_id))
    ending.start()
    assert retrain(path, "--wait", "60")["exit_code"] == 0
    ending.join()


@pytest.mark.parametrize(
    ("who", "silent"),
    [("elsewhere:1", 2 * GONE_SECONDS), (f"{owner().rpartition(':')[0]}:{2**22 + 1}", 0)],
)
def test_dead_jobs_block_nothing(project, who, silent):
    run_id = foreign(project.client, who=who, silent=silent)
    assert retrain(write(project, source="tiny.onnx"))["exit_code"] == 0
    assert project.client.get_run(run_id).info.status == "KILLED"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_job_that_is_killed_blocks_nothing(project, how):
    search = {"latency_rounds": 2000, "workers": 1}  # slow enough to be caught in the middle
    path = write(project, source="tiny.onnx", search=search)
    process = subprocess.Popen(
        [*COMMAND, str(path), "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=here(),
    )  # fmt: skip
    assert any(line.startswith("searching") for line in process.stderr)
    assert len(jobs(project.client, "RUNNING")) == 1
    assert retrain(path)["exit_code"] == 6
    process.send_signal(how)
    said, _ = process.communicate(timeout=60)
    if how == signal.SIGTERM:
        assert process.returncode == 130
        assert json.loads(said)["exit_code"] == 130
        assert jobs(project.client, "RUNNING") == []
    said = retrain(path, "--set", "search.latency_rounds=2")
    assert (said["exit_code"], said["skipped"]) == (0, False)
    assert jobs(project.client, "RUNNING") == []


class Skewed:
    """A client far away, on a host whose clock is wrong by up to a few seconds."""

    def __init__(self, client, rng):
        self._client, self._rng = client, rng

    def create_run(self, *args, **kwargs):
        now = int(1000 * (time.time() + self._rng.uniform(-3, 3)))
        return self._client.create_run(*args, start_time=now, **kwargs)

    def search_runs(self, *args, **kwargs):
        found = self._client.search_runs(*args, **kwargs)
        time.sleep(self._rng.uniform(0, 0.2))  # so that others write before this is looked at
        return found

    def __getattr__(self, name):
        return getattr(self._client, name)


def test_of_many_jobs_that_begin_at_once_one_works_at_a_time(client, monkeypatch):
    monkeypatch.setattr(job_runs, "_POLL_SECONDS", 0.05)
    client.create_experiment("crowd")
    inside, most, worked, errors = [], [], [], []

    def work(number):
        runs = JobRuns(Skewed(client, random.Random(number)), "crowd", "tiny-edge")
        try:
            with runs.hold("models:/tiny/1", wait=120):
                inside.append(number)
                most.append(len(inside))
                time.sleep(0.3)
                inside.remove(number)
            worked.append(number)
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(worked) == [0, 1, 2, 3]
    assert max(most) == 1
    assert jobs(client, "RUNNING") == []


def test_a_job_at_work_is_kept_alive_by_its_beat(client, monkeypatch):
    monkeypatch.setattr(job_runs, "BEAT_SECONDS", 0.05)
    client.create_experiment("beats")
    runs = JobRuns(client, "beats", "tiny-edge")
    with runs.hold("models:/tiny/1") as run_id:
        while "compress.beat" not in client.get_run(run_id).data.tags:
            time.sleep(0.05)
        with pytest.raises(BusyError, match="tiny-edge"), runs.hold("models:/tiny/1"):
            pass
    assert client.get_run(run_id).info.status == "FINISHED"


def test_what_a_job_failed_of_is_raised_though_its_run_cannot_be_closed(client, monkeypatch):
    client.create_experiment("ends")
    runs = JobRuns(client, "ends", "tiny-edge")

    def gone(*_):
        raise UnreachableError("the end")

    with pytest.raises(DataError, match="no rows"), runs.hold("models:/tiny/1"):
        monkeypatch.setattr(runs._runs, "close", gone)
        raise DataError("no rows")
