"""compress.yaml: what is refused, in which words; overrides; paths."""

import json

import pytest

from mlflow_compress.config.compress import config_schema, load_config, parse_config
from mlflow_compress.errors import ConfigError
from mlflow_compress.jobs.prepare import metric_of

GOOD = {"source": "models:/m@a", "data": {"evaluation": "rows.npz"}}


def with_key(path, value):
    data = json.loads(json.dumps(GOOD))
    *parents, last = path.split(".")
    inner = data
    for part in parents:
        inner = inner.setdefault(part, {})
    inner[last] = value
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"source": "x.onnx"}, "data is missing"),
        (with_key("serch", {}), r"unknown key serch \(did you mean 'search'\?\)"),
        (with_key("search.trails", 3), r"unknown key search.trails \(did you mean 'trials'\?\)"),
        (with_key("search.trials", 0), "search.trials: .*greater than or equal to 1, got 0"),
        (with_key("search.trials", "many"), "search.trials: .*integer.*got 'many'"),
        (with_key("data.evaluation", {"path": "r.npz", "row": 5}), r"did you mean 'rows'\?"),
        (with_key("data.evaluation", 5), "data.evaluation.*got 5"),
        (with_key("register_as", "a/b"), "register_as.*got 'a/b'"),
        (with_key("recipes", []), "recipes.*at least 1"),
        ({**GOOD, "recipe": [], "recipes": [[]]}, "exclude each other"),
        (with_key("recipe", "share"), "recipe.*got 'share'"),
        (with_key("targets", "browser"), "targets.*got 'browser'"),
    ],
)
def test_an_error_is_one_line_with_key_and_value(data, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parse_config(data)
    assert "\n" not in str(caught.value)


def write(tmp_path, text):
    path = tmp_path / "compress.yaml"
    path.write_text(text)
    return path


MINIMAL = "source: model.onnx\ndata: {evaluation: rows.npz}\n"


def test_paths_are_relative_to_the_file(tmp_path):
    text = MINIMAL + "tracking_uri: sqlite:///out/m.db\ntargets: [browser, devices/kiosk.yaml]\n"
    config = load_config(write(tmp_path, text))
    assert config.source == str(tmp_path / "model.onnx")
    assert config.data.evaluation.path == str(tmp_path / "rows.npz")
    assert config.tracking_uri == f"sqlite:///{tmp_path}/out/m.db"
    assert config.targets == ["browser", str(tmp_path / "devices/kiosk.yaml")]


@pytest.mark.parametrize("uri", ["http://h:5000", "sqlite:////abs/m.db"])
def test_absolute_uris_stay(tmp_path, uri):
    config = load_config(write(tmp_path, MINIMAL + f"tracking_uri: {uri}\n"))
    assert config.tracking_uri == uri


def test_functions_are_no_paths(tmp_path):
    config = load_config(write(tmp_path, "source: m.onnx\ndata: {evaluation: 'pkg.rows:load'}\n"))
    assert config.data.evaluation.path == "pkg.rows:load"


def test_set_overrides_any_key(tmp_path):
    path = write(tmp_path, MINIMAL + "targets: [browser, {name: x, limits: {size: 1MB}}]\n")
    overrides = [
        "search.trials=7",
        "data.evaluation.rows=5",
        "targets.1.limits.size=2MB",
        "register_as=other",
        "recipe=[share]",
    ]
    config = load_config(path, overrides)
    assert config.search.trials == 7
    assert (config.data.evaluation.path, config.data.evaluation.rows) == (
        str(tmp_path / "rows.npz"),
        5,
    )
    assert config.targets[1]["limits"] == {"size": "2MB"}
    assert (config.register_as, config.recipe) == ("other", ["share"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("search.trials", "must be KEY=VALUE"),
        ("search.trials=0", "search.trials"),
        ("targets.5.name=x", "'5' must be an index below 1"),
        ("search.trials={", "is not YAML"),
        ("targets={a: 1, a: 2}", "'a' stands there twice"),
        ("targets.99999999999999999999.name=x", "must be an index below 1"),
        ("search.sede=1", "did you mean 'seed'"),
    ],
)
def test_a_wrong_override_is_refused(tmp_path, override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, MINIMAL + "targets: [browser]\n"), [override])


@pytest.mark.parametrize(
    "overrides",
    [
        ["search.trials=3", "search.trials=5"],
        ["search={trials: 3}", "search.trials=5"],
        ["search.trials=3", "search={seed: 5}"],
        ["targets.0=browser", "targets.00=server-cpu"],
        ["targets=[browser, browser]", "targets.1=server-cpu"],
    ],
)
def test_an_override_does_not_take_another_one_back(tmp_path, overrides):
    with pytest.raises(ConfigError, match=f"overrides --set {overrides[0][:7]}.*keep one"):
        load_config(write(tmp_path, MINIMAL + "targets: [browser]\n"), overrides)


def test_an_override_may_add_to_another_one(tmp_path):
    overrides = ["data.evaluation=other.npz", "data.evaluation.rows=5", "search={trials: 3}"]
    config = load_config(write(tmp_path, MINIMAL), [*overrides, "search.seed=5"])
    assert config.data.evaluation.rows == 5
    assert (config.search.trials, config.search.seed) == (3, 5)


def test_functions_and_what_a_target_extends_are_relative_to_the_file(tmp_path):
    text = (
        "source: model.onnx\n"
        "data: {evaluation: 'rows.py:load', calibration: 'rows:load', metric: 'sub/own.py:score'}\n"
        "targets: [{name: a, extends: kiosk.yaml}, {name: b, extends: browser}]\n"
    )
    config = load_config(write(tmp_path, text))
    data, spec = config.data, metric_of(config.data)
    assert data.evaluation.path == f"{tmp_path}/rows.py:load"
    assert data.calibration.path == "rows:load"
    assert data.metric == spec.name == f"{tmp_path}/sub/own.py:score"
    assert spec.plain == spec.label == "own.py:score"
    extended = [target["extends"] for target in config.targets]
    assert extended == [f"{tmp_path}/kiosk.yaml", "browser"]


def test_a_key_that_stands_there_twice_is_refused(tmp_path):
    text = MINIMAL + "targets:\n- extends: browser\n  limits:\n    size: 1kB\n    size: 1GB\n"
    with pytest.raises(ConfigError, match=r"'size' stands there twice, in lines 6 and 7"):
        load_config(write(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "message"),
    [("- a\n", "must be a mapping"), ("a: [", "is not YAML"), ("", "must be a mapping")],
)
def test_a_file_that_is_no_config_is_refused(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, text))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "none.yaml")


def test_the_schema_describes_every_key():
    schema = config_schema()
    assert schema["properties"].keys() == {
        "source", "trust", "register_as", "experiment", "tracking_uri", "data", "recipe",
        "recipes", "search", "targets",
    }  # fmt: skip
    assert schema["additionalProperties"] is False


def test_a_metric_may_say_what_it_reads():
    def spec(**data):
        given = {"source": "a.onnx", "data": {"evaluation": "rows.npz", **data}}
        return metric_of(parse_config(given).data)

    assert spec().plain == "accuracy"
    assert spec(metric="mae").plain == "mae"
    told = {"name": "mae", "output": "y", "unit": "dB"}
    assert spec(metric=told, labels="source").plain == {**told, "labels": "source"}
    with pytest.raises(ConfigError, match=r"data\.labels"):
        spec(labels="sauce")
