"""Targets that are measured elsewhere, through the whole job: a device behind a command."""

import json
import sys
from pathlib import Path

import pytest

import mlflow_compress

RECIPES = [[{"share": {"clusters": 16}}], [{"share": {"clusters": 32}}]]


class Device:
    """A Python behind ``cmd:``, which counts its calls and fails when it is told to."""

    def __init__(self, folder):
        self.log, self.broken = folder / "calls", folder / "broken"
        self.path = folder / "box"
        self.path.write_text(
            "#!/bin/sh\nshift\n"
            f'echo "$3" >> {self.log}\n'
            f"if [ -e {self.broken} ]; then\n"
            f"  n=$(grep -c . {self.log}); [ $n -gt $(cat {self.broken}) ] && "
            "{ echo 'Connection refused' >&2; exit 1; }\nfi\n"
            f'exec {sys.executable} "$@"\n'
        )
        self.path.chmod(0o755)
        self.url = f"cmd:{self.path}"

    def calls(self, task=""):
        lines = self.log.read_text().split() if self.log.exists() else []
        return [line for line in lines if task in line]

    def break_after(self, calls):
        self.broken.write_text(str(calls))

    def repair(self):
        self.broken.unlink()


@pytest.fixture
def device(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(mlflow_compress.__file__).parents[1]))
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    return Device(tmp_path)


def there(device, **keys):
    limits = {"latency_p50": "1s", "memory": "1GB"}
    return {
        "name": "there",
        "accuracy": {"max_drop": 0.25},
        "limits": limits,
        "measured_on": device.url,
    } | keys


HERE = {"name": "here", "accuracy": {"max_drop": 0.25}}


def aliases(project, name="tiny-edge"):
    return {k: int(v) for k, v in project.client.get_registered_model(name).aliases.items()}


def report_of(project, alias):
    tags = project.client.get_model_version_by_alias("tiny-edge", alias).tags
    return json.loads(tags["compress.report"])


def snapshot(project):
    client = project.client
    experiments = [one.experiment_id for one in client.search_experiments()]
    runs = {run.info.run_id: run.data.to_dictionary() for run in client.search_runs(experiments)}
    versions = {v.version: v.tags for v in client.search_model_versions("name = 'tiny-edge'")}
    return runs, versions, aliases(project)


def test_a_target_is_measured_on_its_device_and_only_once(project, device):
    done = project.run(targets=[there(device), HERE], recipe=None, recipes=RECIPES)
    assert done.exit_code == 0, done.output
    assert device.calls() == ["facts", "time", "memory", "time", "memory"]
    report = report_of(project, "there")
    assert [one["device"] for one in report["latency"]] == ["local", device.url]
    (memory,) = report["memory"]
    assert (memory["device"], memory["threads"]) == (device.url, 1)
    assert memory["bytes"] > 10_000_000
    before = snapshot(project)
    done = project.run(targets=[there(device), HERE], recipe=None, recipes=RECIPES)
    assert done.exit_code == 0
    assert device.calls("time") == ["time", "time"]
    assert snapshot(project) == before


def test_a_silent_device_is_exit_5_fails_its_gates_and_is_measured_when_it_is_back(project, device):
    device.break_after(0)
    done = project.run(targets=[there(device), HERE])
    assert done.exit_code == 5, done.output
    assert f"there: device {device.url}: Connection refused" in done.stderr
    assert f"latency_p50 was not measured on {device.url} with 1 thread(s)" in done.stdout
    assert aliases(project) == {"here": 1}
    device.repair()
    done = project.run(targets=[there(device), HERE])
    assert done.exit_code == 0, done.output
    assert aliases(project) == {"here": 1, "there": 1}
    assert report_of(project, "there")["memory"]


def test_a_device_that_dies_midway_leaves_what_it_measured(project, device):
    device.break_after(3)  # facts, and the first variant's time and memory
    done = project.run(targets=[there(device)], recipe=None, recipes=RECIPES)
    assert done.exit_code == 0, done.output
    assert f"there: device {device.url}: Connection refused" in done.stderr
    measured = {
        version.version: len(json.loads(version.tags["compress.report"])["latency"])
        for version in project.client.search_model_versions("name = 'tiny-edge'")
    }
    assert sorted(measured.values()) == [1, 2]
    assert measured[aliases(project)["there"]] == 2


def test_a_device_that_contradicts_its_profile_stops_the_job_first(project, device):
    target = there(device, execution={"cores": 999})
    project.refuses(2, "target 'there' on cmd:", "execution.cores is 999", targets=[target])
    assert device.calls() == ["facts"]


def test_an_opset_that_the_device_does_not_take_stops_the_job_first(project, device):
    target = there(device, execution={"opset": 99})
    project.refuses(2, "target 'there' on cmd:", "execution.opset is 99", targets=[target])
    assert device.calls() == ["facts", "memory"]


def test_threads_that_this_machine_does_not_have(project):
    target = HERE | {"execution": {"threads": 999}}
    project.refuses(2, "target 'here' on local: execution.threads is 999", targets=[target])


def test_a_provider_that_is_not_what_is_measured_here(project):
    target = HERE | {"execution": {"providers": ["CUDAExecutionProvider"]}}
    said = "target 'here' on local: execution.providers has CUDAExecutionProvider"
    project.refuses(2, said, targets=[target])


def test_what_the_runtime_lacks_is_rejected_before_it_is_measured(project, device):
    target = there(device, execution={"without_operators": ["Relu"]})
    done = project.run(targets=[target])
    assert done.exit_code == 3, done.output
    assert "runtime: onnxruntime of target 'there' has no operator Relu (node 'r')" in done.stdout
    assert device.calls() == ["facts"]
    assert project.client.search_registered_models() == [], "it can never be promoted"
    experiments = [one.experiment_id for one in project.client.search_experiments()]
    runs = project.client.search_runs(experiments, "metrics.trials_dropped > 0")
    assert len(runs) == 1


def test_a_variant_that_the_device_cannot_run_fails_alone(project, device):
    answer = 'case "$3" in time) echo \'{"error": "Fail: no kernel"}\'; exit;; esac'
    device.path.write_text(device.path.read_text().replace("exec ", f"{answer}\nexec "))
    done = project.run(targets=[there(device)])
    assert done.exit_code == 3, done.output
    assert "cannot run the variant: Fail: no kernel" in done.stderr
    assert aliases(project) == {}


def test_memory_is_measured_in_a_process_of_its_own_where_it_is_limited(project):
    target = HERE | {"limits": {"memory": "1GB"}, "execution": {"cores": 4}}
    done = project.run(targets=[target])
    assert done.exit_code == 0, done.output
    assert "latency is emulated on this machine for here\n" in done.stdout
    assert 10_000_000 < report_of(project, "here")["memory_bytes"] < 10**9
    done = project.run(targets=[HERE | {"limits": {"memory": "1MB"}}])
    assert done.exit_code == 3
    assert "is more than 1 MB" in done.stdout


def test_a_search_for_a_reward_measures_every_trial_on_the_target(project, device):
    target = there(device, objective="reward", reward={"latency": "1ms"}, accuracy={}, limits={})
    # On a model so small latencies are equal, and only what loses nothing is as good as the source.
    done = project.run(targets=[target], recipe=None, recipes=[[], RECIPES[1]])
    assert done.exit_code == 0, done.output
    # during the search, and not again after it
    assert device.calls() == ["facts", "time", "memory", "time", "memory"]
    latency = report_of(project, "there")["latency"]
    assert [one["device"] for one in latency] == ["local", device.url]
    client = project.client
    (search,) = client.search_runs(
        [one.experiment_id for one in client.search_experiments()],
        "tags.`compress.kind` = 'search'",
    )
    assert search.info.status == "FINISHED"
