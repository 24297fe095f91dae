"""What version 0.1 left in MLflow and in a folder of checkpoints is still read.

``earlier/registry.json`` is what its commands wrote into a store (a search, decisions, a
quarantine), as text; ``earlier/training.pt`` a training that was broken off after one epoch.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from mlflow_compress.errors import ConfigError
from mlflow_compress.recording.read import read_search
from mlflow_compress.records import Recipe, Step
from mlflow_compress.registry import history, promote, read_state, rollback, status
from mlflow_compress.targets import load_target
from mlflow_compress.techniques import Context, apply_recipe
from mlflow_compress.techniques.data import Epoch, TrainData
from mlflow_compress.techniques.training.checkpoints import read_checkpoint
from tests.tiny import tiny_model

EARLIER = Path(__file__).parent / "earlier"
NAME = "tiny-edge"


@pytest.fixture
def store(client, tmp_path):
    """A store with what was written down; returns the ids of its runs by those of before."""
    data = json.loads((EARLIER / "registry.json").read_text(encoding="utf-8"))
    ids = {}
    for experiment in data["experiments"]:
        made = client.create_experiment(experiment["name"], str(tmp_path / "artifacts"))
        for run in reversed(experiment["runs"]):  # a search is made before its trials
            tags = dict(run["tags"])
            if parent := tags.pop("mlflow.parentRunId", None):
                tags["mlflow.parentRunId"] = ids[parent]
            new = client.create_run(made, run["start"], tags, run["name"]).info.run_id
            ids[run["id"]] = new
            for key, value in run["params"].items():
                client.log_param(new, key, value)
            for key, value in run["metrics"].items():
                client.log_metric(new, key, value)
            for name, text in run["files"].items():
                client.log_text(new, text, name)
            client.set_terminated(new, run["status"], run["end"])
    for model in data["models"]:
        client.create_registered_model(model["name"], model["tags"], model["description"])
        for version in model["versions"]:
            client.create_model_version(
                model["name"],
                str(tmp_path),
                tags=version["tags"],
                description=version["description"],
            )
        for alias, version in model["aliases"].items():
            client.set_registered_model_alias(model["name"], alias, str(version))
    return ids


def kiosk():
    return load_target({"name": "kiosk", "accuracy": {"max_drop": 0.5}})


def test_variants_are_read_and_trusted(client, store):
    state = read_state(client, NAME)
    assert state.problems == ()
    assert state.aliases == {"kiosk": 2, "kiosk-previous": 1}
    one, two = state.variants
    assert (one.recipe.label, two.recipe.label) == ("share 4", "share 16")
    assert (round(one.report.rate, 2), round(two.report.rate, 2)) == (7.70, 4.80)
    assert one.report.accuracy.value == 0.875 and two.report.accuracy.drop == pytest.approx(0.0875)
    assert set(one.quarantined) == {"kiosk"}


def test_where_targets_stand_and_how_they_came_there(client, store):
    (there,) = [one for one in status(client, NAME) if one.target == "kiosk"]
    assert (there.version, there.previous, there.quarantined) == (2, 1, (1,))
    assert not there.by_hand and not there.problem
    decisions = history(client, NAME, "kiosk")
    assert [(one.outcome, one.version) for one in decisions] == [("promoted", 2), ("promoted", 1)]


def test_deciding_again_moves_nothing(client, store):
    """What was judged by the rule of before is not promoted by today's; it stays where it is."""
    (decision,) = promote(client, NAME, [kiosk()])
    assert (decision.outcome, decision.version) == ("none feasible", 2)
    assert "older rule" in str(decision.gates[2]), decision
    assert read_state(client, NAME).aliases == {"kiosk": 2, "kiosk-previous": 1}


def test_a_quarantine_still_holds(client, store):
    with pytest.raises(ConfigError, match="version 1 is quarantined for 'kiosk' itself"):
        rollback(client, NAME, "kiosk", 1)


def test_the_search_is_read_for_a_report(client, store):
    (search,) = [
        run.info.run_id
        for run in client.search_runs(["1"])
        if run.data.tags["compress.kind"] == "search"
    ]
    record = read_search(client, search)
    assert sorted(trial.recipe.label for trial in record.trials) == ["share 16", "share 4"]
    assert {one.outcome for one in record.decisions} == {"promoted", "none feasible"}


def train(folder, until=None):
    """Run the training that was broken off; return the epochs that it did."""
    seen = []

    def watch(epoch):
        seen.append(epoch.epoch)
        if epoch.epoch == until:
            raise KeyboardInterrupt

    rows = np.random.default_rng(1).normal(size=(80, 16)).astype(np.float32)
    data = TrainData({"x": rows}, np.arange(80) % 4)
    recipe = Recipe((Step("prune", {"sparsity": 0.5, "epochs": 3}),))
    context = Context(train=data, checkpoints=folder, on_epoch=watch)
    try:
        apply_recipe(tiny_model(), recipe, context)
    except KeyboardInterrupt:
        assert until is not None
    return seen


def test_a_checkpoint_is_read():
    state = read_checkpoint(EARLIER / "training.pt", Epoch)
    (epoch,) = state["history"]
    assert isinstance(epoch, Epoch) and epoch.epoch == 1


def test_a_training_that_was_broken_off_goes_on(tmp_path):
    assert train(tmp_path, until=2) == [1, 2]
    (path,) = tmp_path.glob("*.pt")  # torch's version is in the name
    shutil.copy(EARLIER / "training.pt", path)
    assert train(tmp_path) == [2, 3]
