"""The commands on registered models, against a real store."""

import json

import pytest
from click.testing import CliRunner

from mlflow_compress.cli.main import cli
from mlflow_compress.records import DatasetRef
from mlflow_compress.registry import register_variants
from tests.judged import fidelity

NAME = "lenet-edge"
PROFILE = """
name: pi
limits: {size: 50kB}
accuracy: {max_drop: 0.01}
"""


@pytest.fixture
def profile(tmp_path):
    path = tmp_path / "pi.yaml"
    path.write_text(PROFILE)
    return str(path)


@pytest.fixture
def call(store_uri, monkeypatch):
    """Return a function that runs a command as a person would, with MLflow's environment."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri)

    def run(*args, code=0):
        done = CliRunner().invoke(cli, list(args), catch_exceptions=False)
        assert done.exit_code == code, done.output
        return done

    return run


@pytest.fixture
def ask(call):
    """Return a function that runs a command with --json and gives back the document."""
    return lambda *args, code=0: json.loads(call(*args, "--json", code=code).stdout)


@pytest.fixture
def add(client, make_variant, log_variant):
    def register(key, size, **more):
        variant = log_variant(make_variant(key, size=size, **more))
        (registered,) = register_variants(client, NAME, [variant])
        return registered.version

    return register


@pytest.fixture
def promoted(add, call, profile):
    """``pi`` was on version 1 and is on version 2."""
    add("a", 40_000)
    call("promote", NAME, "--target", profile)
    add("b", 30_000)
    call("promote", NAME, "--target", profile)


def aliases(client):
    return {name: int(v) for name, v in client.get_registered_model(NAME).aliases.items()}


def test_promote_moves_the_alias_and_again_changes_nothing(client, add, call, profile):
    add("a", 40_000)
    assert call("promote", NAME, "--target", profile).stdout.startswith("pi: promoted: version 1 ")
    assert aliases(client) == {"pi": 1}
    assert call("promote", NAME, "--target", profile).stdout.startswith("pi: kept: ")
    assert len(client.search_runs([client.get_experiment_by_name("search").experiment_id])) == 2


def test_a_dry_run_writes_nothing(client, add, call, ask, profile):
    add("a", 40_000)
    done = call("promote", NAME, "--target", profile, "--dry-run")
    assert done.stdout.startswith("pi: would be promoted: ")
    found = ask("promote", NAME, "--target", profile, "--dry-run")
    assert (found["dry_run"], found["decisions"][0]["version"]) == (True, 1)
    assert aliases(client) == {}
    assert len(client.search_runs([client.get_experiment_by_name("search").experiment_id])) == 1


def test_no_feasible_variant_is_exit_3_with_the_gates(client, add, ask, profile):
    add("a", 90_000)
    (decision,) = ask("promote", NAME, "--target", profile, code=3)["decisions"]
    assert (decision["outcome"], decision["version"], decision["best_gap"]) == (
        "none feasible",
        None,
        1,
    )
    failed = [gate for gate in decision["gates"]["1"] if not gate["passed"]]
    assert [(gate["name"], gate["value"]) for gate in failed] == [("size", 90_000.0)]
    assert aliases(client) == {}


def test_numbers_of_other_rows_than_the_incumbent_s_are_stale(client, promoted, add, ask, profile):
    from mlflow_compress.records import DatasetRef

    add("easy", 10_000, accuracy=0.99, source_accuracy=0.99, rows=DatasetRef("easy", "ee" * 32, 10))
    (decision,) = ask("promote", NAME, "--target", profile)["decisions"]
    assert (decision["outcome"], decision["version"]) == ("kept", 2)
    (failed,) = [gate for gate in decision["gates"]["3"] if not gate["passed"]]
    assert "measured on other rows (eeeeeeeeeeee and not abababababab)" in failed["reason"]
    assert aliases(client)["pi"] == 2


def test_an_alias_moved_by_hand_is_left_alone_until_taken_over(client, promoted, call, profile):
    client.set_registered_model_alias(NAME, "pi", "1")
    assert "by hand" in call("promote", NAME, "--target", profile).stdout
    assert aliases(client)["pi"] == 1
    assert "moved by hand" in call("status", NAME).stdout
    call("promote", NAME, "--target", profile, "--take-over")
    assert aliases(client)["pi"] == 2


def test_status_of_a_deleted_version_says_what_promote_will_do(
    client, promoted, call, ask, profile
):
    client.delete_model_version(NAME, "2")
    (row,) = ask("status", NAME)["targets"]
    assert (row["version"], row["deleted"], row["by_hand"]) == (None, 2, False)
    shown = call("status", NAME).stdout
    assert "version 2, where the alias was, has been deleted" in shown
    assert "by hand" not in shown
    assert call("promote", NAME, "--target", profile).stdout.startswith("pi: promoted: version 1 ")
    (row,) = ask("status", NAME)["targets"]
    assert (row["version"], row["deleted"], row["by_hand"]) == (1, None, False)
    client.delete_registered_model_alias(NAME, "pi")
    (row,) = ask("status", NAME)["targets"]
    assert (row["version"], row["deleted"], row["by_hand"]) == (None, None, True)
    assert "the alias was removed by hand; promote leaves it alone" in call("status", NAME).stdout
    assert call("promote", NAME, "--target", profile).stdout.startswith("pi: kept: ")


def test_approval(client, add, call, ask, profile):
    add("a", 40_000)
    done = call("promote", NAME, "--target", profile, "--require-approval")
    assert "waits for approval" in done.stdout
    assert aliases(client) == {}
    (row,) = ask("status", NAME)["targets"]
    assert (row["version"], row["waiting"]) == (None, 1)
    assert call("approve", NAME, "--target", "pi").stdout.startswith(
        "pi: promotion to version 1 approved: "
    )
    assert aliases(client) == {"pi": 1}
    add("b", 30_000)
    call("promote", NAME, "--target", profile, "--require-approval")
    (row,) = ask("status", NAME)["targets"]
    assert (row["version"], row["waiting"]) == (1, 2)
    assert ask("reject", NAME, "--target", "pi")["decision"]["approval"] == "rejected"
    assert aliases(client) == {"pi": 1}
    assert "waits for approval" in call("approve", NAME, "--target", "pi", code=2).stderr


def test_rollback_quarantines_until_unquarantine(client, promoted, call, ask, profile):
    done = call("rollback", NAME, "--target", "pi", "--why", "crashes on boot")
    first, second = done.stdout.splitlines()
    assert first == "pi: rolled back from version 2 to version 1: crashes on boot"
    assert second.endswith(f"mlflow-compress unquarantine {NAME} 2 --target pi")
    assert aliases(client) == {"pi": 1}
    (row,) = ask("status", NAME)["targets"]
    assert (row["version"], row["quarantined"], row["reason"]) == (
        1,
        [2],
        "rolled back from version 2 to version 1: crashes on boot",
    )
    call("promote", NAME, "--target", profile)
    assert aliases(client)["pi"] == 1
    call("unquarantine", NAME, "2", "--target", "pi")
    call("promote", NAME, "--target", profile)
    assert aliases(client)["pi"] == 2


def test_quarantine_by_hand(client, promoted, ask, call, profile):
    found = ask("quarantine", NAME, "2", "--target", "pi", "--why", "recall")
    assert (found["version"], found["target"], found["quarantined"]) == (2, "pi", True)
    assert client.get_model_version(NAME, "2").tags["compress.quarantine.pi"].endswith("recall")
    assert aliases(client)["pi"] == 2
    call("promote", NAME, "--target", profile)
    assert aliases(client)["pi"] == 1


def test_status_tells_the_numbers_and_the_decision(promoted, call, ask):
    (row,) = ask("status", NAME)["targets"]
    assert (row["target"], row["version"], row["previous"]) == ("pi", 2, 1)
    assert row["rate"] == pytest.approx(33.3, abs=0.1)
    assert (row["accuracy"], row["latency_ms"], row["by_hand"]) == (0.95, 1.0, False)
    assert row["since"].endswith("Z")
    shown = call("status", NAME).stdout
    for text in ("33.3x", "95.00 %", "1 ms", row["run_id"], "a rollback goes to version 1"):
        assert text in shown, text


def test_status_tells_the_closeness_where_there_are_no_labels(add, call, ask, tmp_path):
    profile = tmp_path / "pi.yaml"
    profile.write_text("accuracy: {min_agreement: 0.99}\n")
    close = fidelity(0.995, 0.01, DatasetRef("rows", "a" * 64, 500))
    add("a", 40_000, fidelity=close, accuracy=None)
    call("promote", NAME, "--target", str(profile))
    (row,) = ask("status", NAME)["targets"]
    assert (row["accuracy"], row["fidelity"]) == (None, 0.995)
    assert "99.50 % agree" in call("status", NAME).stdout


def test_history_tells_every_decision(promoted, call, ask):
    call("rollback", NAME, "--target", "pi")
    found = ask("history", NAME, "--target", "pi")["decisions"]
    assert [(one["outcome"], one["version"], one["incumbent"]) for one in found] == [
        ("rolled back", 1, 2),
        ("promoted", 2, 1),
        ("promoted", 1, None),
    ]
    assert all(one["reason"] and one["time"].endswith("Z") for one in found)
    assert len(ask("history", NAME, "--target", "pi", "--limit", "1")["decisions"]) == 1
    shown = call("history", NAME, "--target", "pi").stdout
    assert all(one["run_id"] in shown for one in found)


def test_status_tells_the_latency_of_the_target_s_place(add, call, ask, tmp_path):
    from mlflow_compress.records import Interval, Latency

    def latency(device, p50):
        return Latency(device, 1, 1, p50, p50, 1.0, p50, Interval(p50, p50))

    there = tmp_path / "there.yaml"
    there.write_text("accuracy: {max_drop: 0.01}\nmeasured_on: ssh://pi@box\n")
    stand_in = tmp_path / "stand-in.yaml"
    stand_in.write_text("accuracy: {max_drop: 0.01}\nexecution: {cores: 4}\n")
    two = (latency("local", 1.0), latency("ssh://pi@box", 7.0))
    add("a", 40_000, latency=two)
    call("promote", NAME, "--target", str(there), "--target", str(stand_in))
    found = {one["target"]: one for one in ask("status", NAME)["targets"]}
    assert (found["there"]["latency_ms"], found["there"]["latency_on"]) == (7.0, "ssh://pi@box")
    assert found["stand-in"]["latency_ms"] == 1.0
    assert found["stand-in"]["latency_on"] == "local (emulated)"
    shown = call("status", NAME).stdout
    assert "7 ms ssh://pi@box" in shown
    assert "1 ms (emulated)" in shown


def test_a_number_that_json_has_no_word_for_is_null(add, call, ask, profile):
    add("a", 40_000, ratio=(float("nan"), float("nan")))
    call("promote", NAME, "--target", profile)
    (row,) = ask("status", NAME)["targets"]
    assert row["latency_ms"] is None


def test_a_config_names_the_model_and_the_targets(project):
    assert project.run().exit_code == 0
    path = str(project.folder / "compress.yaml")

    def call(*args):
        return CliRunner().invoke(cli, list(args), catch_exceptions=False)

    done = call("promote", path)
    assert (done.exit_code, done.stdout[:13]) == (0, "device: kept:")
    assert "\n device " in call("status", path).stdout
    done = call("promote", path, "--target", "devise")
    assert done.exit_code == 2
    assert "no target 'devise' (targets: device)" in done.stderr
    # Other rows: the incumbent is scored on them, and passes.
    config = (project.folder / "compress.yaml").read_text()
    (project.folder / "compress.yaml").write_text(
        config.replace("evaluation: rows.npz", "evaluation: {path: rows.npz, rows: 60}")
    )
    done = call("promote", path)
    assert (done.exit_code, done.stdout[:13]) == (0, "device: kept:")


BAD_INPUT = [
    (("status", "lenet-edgy"), "there is no registered model 'lenet-edgy' in sqlite:///"),
    (("status", "lenet-edgy"), "(did you mean 'lenet-edge'?)"),
    (("status", "x"), "(those with variants: lenet-edge)"),
    (("status", "models:/lenet-edge"), "such as lenet-edge, or a compress.yaml, got 'models:/"),
    (("status", "none.yaml"), "config none.yaml: No such file"),
    (("promote", NAME), "with --target (a shipped profile's name or"),
    (("promote", NAME, "--target", "raspberri-pi-4"), "did you mean 'raspberry-pi-4'?"),
    (("promote", NAME, "--target", "browser", "--target", "browser"), "'browser' is named tw"),
    (("promote", "lenet-edgy", "--target", "browser"), "no registered model 'lenet-edgy'"),
    (("history", NAME, "--target", "pj"), "no decision for target 'pj' of 'lenet-edge' (targ"),
    (("rollback", NAME, "--target", "p'i"), "--target \"p'i\" cannot be a target's name: only"),
    (("rollback", NAME, "--target", "car"), "'lenet-edge' has no target 'car' (targets: pi)"),
    (("rollback", NAME, "--target", "browser"), "has no version of 'lenet-edge' to roll back from"),
    (("rollback", NAME, "--target", "pi", "--to", "9"), "no version 9 (versions: 1, 2)"),
    (("unquarantine", NAME, "1", "--target", "pi"), "is not quarantined for 'pi'"),
    (("quarantine", NAME, "7", "--target", "pi"), "has no version 7"),
    (("quarantine", NAME, "1", "--target", "pj"), "'lenet-edge' has no target 'pj' (targets: pi)"),
    (("approve", NAME, "--target", "pi"), "no promotion to 'pi' of 'lenet-edge' waits"),
    (("approve", NAME, "--target", "pi"), "(waiting: none)"),
]


def test_bad_input_is_one_line_and_changes_nothing(client, promoted, call):
    before = aliases(client)
    for args, message in BAD_INPUT:
        done = call(*args, code=2)
        assert done.stdout == "", args
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: ")
        assert message in line
    assert aliases(client) == before


def test_a_store_that_is_not_there_is_exit_5_and_is_not_made(call, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    done = call("status", NAME, code=5)
    assert "set MLFLOW_TRACKING_URI, or give --tracking-uri" in done.stderr
    assert not (tmp_path / "other.db").exists()
