"""What a search would find out late is said before it begins."""

import pytest

from mlflow_compress.base import modules
from mlflow_compress.config.compress import parse_config
from mlflow_compress.errors import ConfigError, MissingDependencyError
from mlflow_compress.jobs.foresight import check_search, idle_settings
from mlflow_compress.jobs.prepare import make_plan
from mlflow_compress.measure import Dataset
from tests.tiny import labelled_rows, tiny_model


@pytest.fixture(scope="module")
def rows():
    x, labels = labelled_rows(tiny_model(), 8)
    return Dataset({"x": x}, labels)


def plan(rows, roles=(), metric="accuracy", **config):
    files = dict.fromkeys(("evaluation", *roles), "rows.npz")
    data = {"source": "m.onnx", "data": {**files, "metric": metric}, **config}
    return make_plan(parse_config(data), dict.fromkeys(files, rows))


@pytest.mark.parametrize(
    ("target", "key"),
    [
        ({"limits": {"latency_p50": "5ms"}}, "limits.latency_p50"),
        ({"limits": {"latency_p95": "5ms"}}, "limits.latency_p95"),
        ({"objective": "latency"}, "objective latency"),
        ({"objective": "reward", "reward": {"latency": "5ms"}}, "objective reward"),
    ],
)
def test_a_latency_that_is_not_measured_is_not_asked_for(rows, target, key):
    target = {"name": "kiosk", "accuracy": {"max_drop": 0.1}, **target}
    search = {"latency_rounds": 0, "objectives": ["rate", "accuracy"]}
    with pytest.raises(ConfigError, match=f"target 'kiosk': {key} .*latency_rounds is 0"):
        check_search(plan(rows, targets=[target], search=search))
    check_search(plan(rows, targets=[target]))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"search": {"executor": "dask"}}, r"search.executor dask needs distributed: .*\[dask\]"),
        ({"search": {"executor": "ray"}}, r"search.executor ray needs ray: .*\[ray\]"),
        ({"metric": "wer"}, r"data.metric wer needs jiwer: .*\[text\]"),
        (
            {"roles": ["train"], "recipes": [[], [{"prune": {"sparsity": 0.5, "epochs": 1}}]]},
            r"recipes\[1\]: prune with data.train needs torch: .*\[torch\]",
        ),
    ],
)
def test_a_package_that_is_missing_is_named(rows, config, message, monkeypatch):
    made = plan(rows, **config)
    check_search(made)
    monkeypatch.setattr(modules, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=message):
        check_search(made)


def test_without_rows_to_train_on_nothing_needs_torch(rows, monkeypatch):
    monkeypatch.setattr(modules, "find_spec", lambda name: None)
    check_search(plan(rows, recipe=[{"prune": {"sparsity": 0.5, "epochs": 1}}]))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"roles": ["calibration"], "recipe": [{"share": {"epochs": 0}}]}, "data.calibration"),
        ({"roles": ["train"], "recipe": [{"share": {"epochs": 0}}]}, "data.train"),
        ({"search": {"cache": 0, "cache_folder": "kept"}}, "search.cache_folder"),
        ({"search": {"executor": "inline", "workers": 3}}, "search.workers"),
    ],
)
def test_what_nothing_looks_at_is_said(rows, config, said):
    (line,) = idle_settings(plan(rows, **config))
    assert line.startswith(f"{said}: ")


@pytest.mark.parametrize(
    "config",
    [
        {"recipe": [{"share": {}}, "repair"]},
        {"recipe": ["fold"]},
        {"recipe": [{"prune": {"method": {"choices": ["magnitude", "wanda", "magnitude"]}}}]},
        {"recipe": [], "search": {"sensitivity": True}},
    ],
)
def test_calibration_rows_that_are_looked_at_are_not_spoken_of(rows, config):
    assert not list(idle_settings(plan(rows, roles=["calibration"], **config)))


def test_a_choice_in_the_middle_needs_its_rows_too(rows):
    methods = {"choices": ["magnitude", "wanda", "magnitude"]}
    with pytest.raises(ConfigError, match="needs calibration rows"):
        plan(rows, recipe=[{"prune": {"method": methods, "repair": False}}])
