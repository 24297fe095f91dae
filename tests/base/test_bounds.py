"""Numbers from outside have bounds, and are refused before anything is started for them."""

import pytest
from click.testing import CliRunner

from mlflow_compress.base.bounds import most_processes
from mlflow_compress.cli.main import cli
from mlflow_compress.config.compress import parse_config
from mlflow_compress.errors import ConfigError
from mlflow_compress.search import Space, executors
from mlflow_compress.search.executors import start_early
from mlflow_compress.targets.schema import check_target
from mlflow_compress.techniques import get
from mlflow_compress.techniques.base import parse_settings

GOOD = {"source": "m.onnx", "data": {"evaluation": "rows.npz"}}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("workers", 100_000),
        ("window", 100_000),
        ("trials", 10**9),
        ("patience", 10**9),
        ("minutes", 1e300),
        ("wait", 1e300),
        ("seed", 2**32),
        ("latency_rounds", 10**8),
        ("cache", "9999999999GB"),
    ],
)
def test_a_search_has_bounds(key, value):
    with pytest.raises(ConfigError, match=rf"search\.{key}.*got {value!r}".replace("+", r"\+")):
        parse_config(GOOD | {"search": {key: value}})


@pytest.mark.parametrize(
    ("workers", "window", "message"),
    [(5, 4, "search.workers: 4 trials .*got 5"), (1000, 1000, "search.workers: .* got 1000")],
)
def test_no_process_is_started_before_their_number_is_looked_at(
    monkeypatch, workers, window, message
):
    monkeypatch.setattr(executors, "Process", None)
    with pytest.raises(ConfigError, match=message):
        start_early("process", workers, window)


def test_a_large_machine_takes_more_processes():
    assert (most_processes(2), most_processes(64)) == (16, 256)


@pytest.mark.parametrize(
    ("technique", "settings"),
    [
        ("prune", {"sparsity": 0.5, "epochs": 10**8}),
        ("prune", {"sparsity": 0.5, "batch": 10**9}),
        ("repair", {"rows": 10**10}),
        ("share", {"clusters": 10**400}),
    ],
)
def test_a_technique_has_bounds(technique, settings):
    with pytest.raises(ConfigError, match=rf"{technique}\.\w+ must be"):
        parse_settings(get(technique), settings)


@pytest.mark.parametrize("key", ["cores", "threads", "opset", "memory"])
def test_a_device_has_bounds(key):
    target = {"name": "a", "accuracy": {"max_drop": 0.1}, "execution": {key: 10**19}}
    with pytest.raises(ConfigError, match=key):
        check_target(target)


@pytest.mark.parametrize(
    "values", [{"low": 0, "high": 10**15}, {"low": 0.0, "high": 1.0, "step": 1e-12}]
)
def test_a_range_is_no_longer_than_can_be_listed(values):
    with pytest.raises(ConfigError, match="at most 100,000 values"):
        Space.parse([[{"prune": {"sparsity": values}}]])


def test_a_space_may_be_larger_than_a_float():
    layers = {f"l{i}": {"choices": [0.1, 0.2]} for i in range(1100)}
    space = Space.parse([[{"prune": {"sparsity": {"layers": layers}}}]])
    assert space.size == float("inf")


@pytest.mark.parametrize(
    "args",
    [
        ["retrain", "c.yaml", "--wait", "nan"],
        ["retrain", "c.yaml", "--wait", "inf"],
        ["rollback", "m", "--target", "t", "--to", "99999999999"],
        ["webhook", "serve", "c.yaml", "--queue", "q", "--jobs", "100000"],
    ],
)
def test_an_option_has_bounds(args):
    done = CliRunner().invoke(cli, args)
    assert done.exit_code == 2
    assert args[-1] in done.stderr
