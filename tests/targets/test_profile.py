import pytest

from mlflow_compress.errors import ConfigError
from mlflow_compress.targets import Target, load_target, shipped_names


def error_of(spec, base_dir="."):
    with pytest.raises(ConfigError) as caught:
        load_target(spec, base_dir)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("name", shipped_names())
def test_a_shipped_profile_is_whole(name):
    target = load_target(name)
    assert target.name == name
    assert target.description
    assert target.accuracy.any


def test_the_demo_devices_are_shipped():
    assert {"raspberry-pi-4", "browser", "server-cpu"} <= set(shipped_names())


def test_a_browser_runs_only_the_portable_profile():
    assert load_target("browser").execution.profiles == ("portable",)


def test_inline_with_units():
    target = load_target(
        {
            "name": "kiosk",
            "limits": {"size": "1.5MiB", "latency_p50": "0.2s", "memory": "256MB"},
            "accuracy": {"max_drop": 0.01, "confidence": 0.9},
            "objective": "latency",
            "execution": {"threads": 2, "profiles": ["portable"]},
        }
    )
    assert target.limits.size_bytes == 1_572_864
    assert target.limits.latency_p50_ms == 200.0
    assert target.limits.memory_bytes == 256_000_000
    assert target.accuracy.confidence == 0.9
    assert target.execution.threads == 2
    assert target.objective == "latency"


def test_extends_a_shipped_profile_and_wins():
    base = load_target("raspberry-pi-4")
    target = load_target(
        {
            "name": "kiosk",
            "extends": "raspberry-pi-4",
            "limits": {"size": "60KB", "latency_p95": None},
            "accuracy": {"max_drop": 0.02},
        }
    )
    assert target.name == "kiosk"
    assert target.limits.size_bytes == 60_000
    assert target.limits.latency_p95_ms is None
    assert target.limits.latency_p50_ms == base.limits.latency_p50_ms
    assert target.accuracy.max_drop == 0.02
    assert target.execution == base.execution


def test_a_file_extends_another_beside_it(tmp_path):
    (tmp_path / "base.yaml").write_text("accuracy: {max_drop: 0.03}\nlimits: {size: 1MB}\n")
    (tmp_path / "kiosk.yaml").write_text("extends: ./base.yaml\nlimits: {size: 50kB}\n")
    target = load_target("kiosk.yaml", tmp_path)
    assert (target.name, target.limits.size_bytes, target.accuracy.max_drop) == (
        "kiosk",
        50_000,
        0.03,
    )


def test_a_profile_that_extends_itself(tmp_path):
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    assert error_of("a.yaml", tmp_path) == (
        "target 'a.yaml' extends itself: a.yaml -> b.yaml -> a.yaml"
    )


OK = {"name": "rpi4", "accuracy": {"max_drop": 0.01}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"accuracy": {"min_agreement": 99}},
            "target 'rpi4': min_agreement must be between 0 and 1, got 99 (did you mean 0.99?)",
        ),
        ({"accuracy": {"max_drop": True}}, "target 'rpi4': max_drop must be a number, got True"),
        (
            {"accuracy": {"min": 0.9, "limits": {"y": {"error": True}}}},
            "target 'rpi4': limits.y.error must be a number, got True",
        ),
        (
            {"accuracy": {"max_drop": -0.1}},
            "target 'rpi4': max_drop must be greater than or equal to 0, got -0.1",
        ),
        (
            {"limits": {"sise": "2MB"}},
            "target 'rpi4': unknown key 'limits.sise' (did you mean 'size'?)",
        ),
        ({"limitz": {}}, "target 'rpi4': unknown key 'limitz' (did you mean 'limits'?)"),
        (
            {"limits": {"size": "2Mb"}},
            "target 'rpi4': size must be a size with a unit "
            "(B, kB, KB, MB, GB, KiB, MiB, GiB), got '2Mb'",
        ),
        (
            {"limits": {"latency_p50": 15}},
            "target 'rpi4': latency_p50 needs a unit, got 15 (write 15ms or 15s)",
        ),
        (
            {"objective": "sise"},
            "target 'rpi4': objective must be one of size, latency, accuracy, rate, reward, "
            "got 'sise' (did you mean 'size'?)",
        ),
        (
            {"accuracy": None},
            "target 'rpi4': objective 'size' with no accuracy limit would promote the smallest "
            "wrong model: set accuracy.max_drop, min, min_agreement, max_error or another "
            "(docs/judging.md)",
        ),
        (
            {"accuracy": {"confidence": 0.95}},
            "target 'rpi4': objective 'size' with no accuracy limit would promote the smallest "
            "wrong model: set accuracy.max_drop, min, min_agreement, max_error or another "
            "(docs/judging.md)",
        ),
        (
            {"objective": "reward"},
            "target 'rpi4': objective 'reward' and the section 'reward' (latency, weight) "
            "go together",
        ),
        ({"limits": 3}, "target 'rpi4': limits must be a mapping of keys, got 3"),
        ({"execution": {"profiles": []}}, "target 'rpi4': execution.profiles must not be empty"),
        (
            {"measured_on": "the shelf"},
            "target 'rpi4': measured_on must be local, ssh://user@host or cmd:<template>, "
            "got 'the shelf'",
        ),
        (
            {"min_improvement": 2},
            "target 'rpi4': min_improvement must be between 0 and 1, got 2 (did you mean 0.02?)",
        ),
    ],
)
def test_one_line_per_error(change, message):
    assert error_of(OK | change) == message


@pytest.mark.parametrize(
    ("limits", "confidence"),
    [
        ({"min_agreement": 0.99}, 0.95),
        ({"min_agreement": 0.99, "confidence": 0.9}, 0.9),
        ({"min_agreement": 0.99, "confidence": None}, None),
    ],
    ids=["by default", "another", "none"],
)
def test_confidence_is_of_every_limit(limits, confidence):
    assert load_target(OK | {"accuracy": limits}).accuracy.confidence == confidence


@pytest.mark.parametrize(
    "name", ["latest", "LATEST", "v3", "V12", "two words", "a/b", "rpi-previous", "x" * 250, "a.b"]
)
def test_names_that_mlflow_takes_for_no_alias(name):
    assert "the name cannot be an alias" in error_of(OK | {"name": name})
    with pytest.raises(ConfigError):
        Target(name)


def test_an_unknown_name_suggests_a_known_one():
    assert error_of("raspberry-pi4").startswith(
        "unknown target 'raspberry-pi4' (did you mean 'raspberry-pi-4'?"
    )


def test_files_that_cannot_be_read(tmp_path):
    assert error_of("missing.yaml", tmp_path).endswith("missing.yaml: No such file or directory")
    (tmp_path / "broken.yaml").write_text("limits: [")
    assert "is not YAML" in error_of("broken.yaml", tmp_path)
    (tmp_path / "list.yaml").write_text("- a\n")
    assert "must be a mapping of keys" in error_of("list.yaml", tmp_path)
