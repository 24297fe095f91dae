"""What registries and folders hold already is known again: digests, keys, tags, stored texts.

A failure means that a new version takes what an older one wrote for something else: trials are
run again, decisions made twice, versions refused. Nothing here is renewed but on purpose, with a
line in the changelog.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlflow_compress import measure
from mlflow_compress.config.compress import Config
from mlflow_compress.jobs import retrain
from mlflow_compress.jobs.prepare import make_plan
from mlflow_compress.records import Decision, Output, from_dict, to_dict
from mlflow_compress.registry.decisions import DecisionLog, evidence_digest
from mlflow_compress.registry.tags import from_tags, to_tags
from mlflow_compress.search import TrialEvaluator
from mlflow_compress.targets import Target
from mlflow_compress.targets.profile import target_record, target_text
from tests.golden.cases import DECISIONS, RECIPES, TARGETS, VARIANT
from tests.tiny import tiny_model

HERE = Path(__file__).parent

RECIPE_DIGESTS = {
    "lossless": "0a8c41f33b3fdb3c6ae9df3b1a064998d711dc13fade33dbcb2aa2444ad81a7a",
    "portable": "471afd7fe61261d95dc6ddc52600c0740bf380069f919b8fe2ccc702a42fbafa",
    "prune and share": "69de10b8216a149751801d49bd2438b202afca236d7c2c9d1f1292866b538d80",
    "per layer": "f492267564570204bf48b48b97ceaaffd1efbfca87307ab0b7aa4f37440aa47f",
}
TRIAL_KEYS = {
    "lossless": "0b86dabe61e79b6b0a2ab125774315f23168c7a439c9fb830c5e9e5ae1b033da",
    "per layer": "a82ee4a8e93789505122ff413c69c145073c41d1d6df4159734126d841021f84",
    "timed elsewhere": "63f15e335464af5490b0bd01a6afec1090a26780c4f9714f8b41bf78ca6131b6",
}
JOB_KEY = "156cecf939696fa564da218786ba83e8ba25c36a9b7078e4e2c03c2f39b6f777"


def stored(name):
    return (HERE / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("target", TARGETS)
def test_the_digest_of_a_decision_s_evidence(target):
    digests = {name: evidence_digest(made, TARGETS[target]) for name, made in DECISIONS.items()}
    assert digests == json.loads(stored("evidence.json"))[target]


@pytest.mark.parametrize("name", RECIPES)
def test_the_digest_of_a_recipe(name):
    assert RECIPES[name].digest == RECIPE_DIGESTS[name]


def test_the_canonical_text_of_a_recipe():
    assert RECIPES["per layer"].to_json() == (
        '{"profile":"portable","steps":[{"settings":{"sparsity":{"default":0.0,"layers":'
        '{"fc*":0.5,"fc1":0.9}}},"technique":"prune"},{"settings":{"bits":1.25,"mode":null,'
        '"rows":2048},"technique":"entropy_share"}]}'
    )


def rows():
    """Rows that depend on no random generator."""
    x = (np.arange(20 * 16, dtype=np.float32).reshape(20, 16) % 7) - 3
    return measure.Dataset({"x": x}, np.arange(20) % 4, "rows")


def evaluator(**changes):
    data = rows()
    made = TrialEvaluator(
        source=tiny_model(),
        uri="models:/tiny/1",
        source_digest="ef" * 32,
        source_bytes=5120,
        evaluation=data,
        calibration=data.take([0, 2, 4]),
        work_dir=Path(),
        outputs=(Output("y", "classes", "logits", 1),),
        seed=3,
        versions={"mlflow-compress": "0.1", "onnx": "1", "onnxruntime": "2", "numpy": "3"},
    )
    return replace(made, **changes)


def test_the_key_of_a_trial():
    there = TARGETS["reward, elsewhere"]
    plain, timed = evaluator(), evaluator(threads=(1, 4), timed_on=(there,))
    assert {
        "lossless": plain.key(RECIPES["lossless"]),
        "per layer": plain.key(RECIPES["per layer"]),
        "timed elsewhere": timed.key(RECIPES["lossless"]),
    } == TRIAL_KEYS


def test_the_key_of_a_job(monkeypatch):
    monkeypatch.setattr(retrain, "plugin_version", lambda: "0.1")
    config = Config.model_validate(
        {
            "source": "models:/tiny/1",
            "data": {"evaluation": "rows.npz"},
            "recipe": [{"prune": {"sparsity": {"low": 0.5, "high": 0.9}}}],
            "targets": [
                "raspberry-pi-4",
                {"name": "kiosk", "limits": {"size": "3kB"}, "accuracy": {"max_drop": 0.01}},
            ],
        }
    )
    plan = make_plan(config, {"evaluation": rows()})
    assert retrain._job_key(plan, "cd" * 32, "tiny-edge") == JOB_KEY


def test_the_tags_of_a_version():
    assert to_tags(VARIANT) == json.loads(stored("version_tags.json"))


def test_a_version_that_was_registered_is_read():
    assert from_tags(json.loads(stored("version_tags.json")), 7) == VARIANT


@pytest.mark.parametrize("name", DECISIONS)
def test_a_decision_survives_in_json(name):
    data = json.loads(stored("decisions.json"))[name]
    assert json.loads(json.dumps(to_dict(DECISIONS[name]))) == data
    assert from_dict(Decision, data) == DECISIONS[name]


class _Client:
    """Stands for MLflow's, and keeps the texts that are logged."""

    def __init__(self):
        self.texts = {}

    def set_tag(self, run_id, key, value):
        pass

    def log_text(self, run_id, text, name):
        self.texts[name] = text


def test_the_files_of_a_decision_s_run():
    client = _Client()
    log = DecisionLog(client, "lenet-edge")
    log._attach("run", DECISIONS["promoted"], TARGETS["raspberry-pi"], [VARIANT])
    assert client.texts["decision.json"] == stored("decision.json").removesuffix("\n")
    assert client.texts["decision.md"] == stored("decision.md")


def test_the_limits_of_a_decision_s_run_are_read():
    limits = json.loads(stored("decision.json"))["limits"]
    assert from_dict(Target, limits) == TARGETS["raspberry-pi"]


def test_a_later_field_counts_only_where_it_is_set():
    plain, decision = TARGETS["raspberry-pi"], DECISIONS["promoted"]
    limited = replace(plain, accuracy=replace(plain.accuracy, max=0.5))
    assert target_text(plain) == stored("target.txt").strip()
    assert target_text(limited) == stored("target.txt").strip().replace(
        "max_kl=None)", "max_kl=None, max=0.5)"
    )
    assert evidence_digest(decision, limited) != evidence_digest(decision, plain)
    assert from_dict(Target, json.loads(json.dumps(target_record(limited)))) == limited
