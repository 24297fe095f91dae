"""Whole jobs on models with inputs of all sorts: search, latency, memory, promotion."""

import numpy as np
import pytest

import mlflow_compress
from mlflow_compress.config.compress import parse_config, parse_inputs
from mlflow_compress.errors import ConfigError
from mlflow_compress.records import InputSpec
from tests.rows import made_models as made

LIMITS = {"latency_p50": "1s", "memory": "4GB"}
TARGET = {"name": "device", "accuracy": {"min_agreement": 0.7}, "limits": LIMITS}


def normal(*shape):
    return np.random.default_rng([9, *shape]).normal(size=shape).astype(np.float32)


def image(number):
    """Return an image of its own colour, of one of two sizes."""
    rng = np.random.default_rng(number)
    pixels = rng.normal(size=(3, 6 + number % 2, 8)) + 2 * rng.normal(size=(3, 1, 1))
    return pixels.astype(np.float32)


CASES = {
    "stream": (
        made.gru(),
        {"x": normal(1, 60, 6)},
        {"inputs": {"x": {"axis": 1}, "h0": {"axis": 1, "state_of": "hn"}}, "stream": 20},
    ),
    "one number first": (made.with_threshold(), {"scale": np.float32(3), "x": normal(60, 16)}, {}),
    "images of two sizes": (
        made.images(),
        {"image": [image(i) for i in range(40)]},
        {"outputs": {"y": "classes"}},
    ),
    "suppressed boxes": (made.detector(), {"x": normal(40, 16)}, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_a_job_measures_and_promotes(store_uri, name):
    model, rows, said = CASES[name]
    outcome = mlflow_compress.compress(
        model,
        data={"evaluation": rows, "calibration": rows},
        recipe=[{"entropy_share": {"bits": 6.0}}],
        targets=[TARGET],
        search={"latency_rounds": 2},
        register_as="small",
        tracking_uri=store_uri,
        **said,
    )
    (trial,) = outcome.trials
    assert trial.error == ""
    assert trial.variant.report.fidelity.agreement > 0.7
    assert trial.variant.report.memory_bytes > 0
    assert [latency.batch for latency in trial.variant.report.latency] == [1]
    assert outcome.decisions[0].outcome == "promoted", outcome.decisions


def test_the_first_step_of_a_search_sees_the_states_that_occur(store_uri):
    model, rows, said = CASES["stream"]
    keys = [
        mlflow_compress.compress(
            model,
            data={"evaluation": rows, "calibration": rows},
            recipe=["share"],
            search={"latency_rounds": 0},
            register_as="small",
            tracking_uri=store_uri,
            **(said | {"stream": stream}),
        )
        .trials[0]
        .key
        for stream in (20, 20, 30)
    ]
    assert keys[0] == keys[1] != keys[2]


def test_what_is_said_of_inputs_is_checked():
    plain = {"source": "a.onnx", "data": {"evaluation": "rows.npz"}}

    def config(entry):
        return parse_config(plain | {"data": {**plain["data"], "inputs": {"h0": entry}}})

    assert config({"axis": 1, "state_of": "hn"}).data.specs == {"h0": InputSpec(1, "hn")}
    assert config({"axis": "none"}).data.specs == {"h0": InputSpec("none")}
    told = r"unknown key data\.inputs\.h0\.axes .did you mean 'axis'"
    with pytest.raises(ConfigError, match=told):
        config({"axes": 1})
    with pytest.raises(ConfigError, match=r"data\.inputs\.h0\.axis.* got 'first'"):
        config({"axis": "first"})


def test_options_say_the_same_as_the_configuration():
    assert parse_inputs(["h0=axis:1,state_of:hn", "a=b=value:0.5"]) == {
        "h0": InputSpec(axis=1, state_of="hn"),
        "a=b": InputSpec(value=0.5),
    }
    for wrong in ("h0", "h0=axis", "=axis:1"):
        with pytest.raises(ConfigError, match="must be NAME=KEY:VALUE"):
            parse_inputs([wrong])
    with pytest.raises(ConfigError, match="--input h0=axes:1: unknown key axes"):
        parse_inputs(["h0=axes:1"])
