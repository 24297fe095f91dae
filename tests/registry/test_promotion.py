import json
from dataclasses import replace
from pathlib import Path

import pytest

from mlflow_compress.errors import ConfigError
from mlflow_compress.registry import promote, register_variants
from mlflow_compress.registry.decisions import DecisionLog
from mlflow_compress.targets import AccuracyLimits, Limits, Target

NAME = "lenet-edge"
PI = Target("pi", Limits(size_bytes=50_000), AccuracyLimits(max_drop=0.01))
SERVER = replace(PI, name="server", objective="accuracy", limits=Limits())
TINY = replace(PI, name="tiny", limits=Limits(size_bytes=5_000))


@pytest.fixture
def fleet(client, make_variant, log_variant):
    """Three variants, registered: exact, small, wrong."""
    variants = [
        log_variant(make_variant("exact", size=40_000)),
        log_variant(make_variant("small", size=20_000, accuracy=0.945)),
        log_variant(make_variant("wrong", size=10_000, accuracy=0.90)),
    ]
    return register_variants(client, NAME, variants)


def aliases(client):
    return {name: int(v) for name, v in client.get_registered_model(NAME).aliases.items()}


def decisions(client, target="pi"):
    return DecisionLog(client, NAME).read(target)


def test_each_target_gets_its_alias(client, fleet):
    found = promote(client, NAME, [PI, SERVER])
    assert [(d.target, d.outcome, d.version) for d in found] == [
        ("pi", "promoted", 2),
        ("server", "promoted", 1),
    ]
    assert aliases(client) == {"pi": 2, "server": 1}


def test_promoting_again_changes_nothing(client, fleet):
    promote(client, NAME, [PI, SERVER, TINY])
    before = (aliases(client), [d.run_id for t in ("pi", "tiny") for d in decisions(client, t)])
    found = promote(client, NAME, [PI, SERVER, TINY])
    after = (aliases(client), [d.run_id for t in ("pi", "tiny") for d in decisions(client, t)])
    assert [d.outcome for d in found] == ["kept", "kept", "none feasible"]
    assert before == after


def test_a_decision_is_a_run_with_its_reasons(client, fleet, tmp_path):
    promote(client, NAME, [PI])
    (logged,) = decisions(client)
    assert (logged.status, logged.outcome, logged.version) == ("FINISHED", "promoted", 2)
    run = client.get_run(logged.run_id)
    assert run.info.run_name == "pi: promoted v2"
    assert run.info.experiment_id == client.get_run(fleet[0].run_id).info.experiment_id
    path = client.download_artifacts(logged.run_id, "decision.json", str(tmp_path))
    data = json.loads(Path(path).read_text())
    assert (data["version"], data["incumbent"], data["model"]) == (2, None, NAME)
    assert data["gates"]["3"][2]["reason"] == "5 points is more than 1 points"
    path = client.download_artifacts(logged.run_id, "decision.md", str(tmp_path))
    text = Path(path).read_text()
    assert text.startswith("# lenet-edge@pi: promoted, version 2\n")
    assert "| 3 | prune 0.9 | 100.0x | no | accuracy_drop: 5 points is more than 1 points |" in text
    assert run.data.tags["mlflow.note.content"] == text


def test_a_better_variant_moves_the_alias_and_keeps_the_way_back(
    client, fleet, make_variant, log_variant
):
    promote(client, NAME, [PI])
    register_variants(client, NAME, [log_variant(make_variant("smaller", size=15_000))])
    (decision,) = promote(client, NAME, [PI])
    assert (decision.outcome, decision.version, decision.incumbent) == ("promoted", 4, 2)
    assert aliases(client) == {"pi": 4, "pi-previous": 2}
    assert [d.version for d in decisions(client)] == [4, 2]


def test_none_feasible_sets_no_alias_and_says_why(client, fleet):
    (decision,) = promote(client, NAME, [TINY])
    assert (decision.outcome, decision.version, decision.best_gap) == ("none feasible", None, 2)
    assert aliases(client) == {}
    (logged,) = decisions(client, "tiny")
    assert logged.reason == decision.reason


def test_a_dry_run_writes_nothing(client, fleet):
    (decision,) = promote(client, NAME, [PI], dry_run=True)
    assert (decision.outcome, decision.version) == ("promoted", 2)
    assert aliases(client) == {}
    assert decisions(client) == []


def test_a_model_that_is_not_there(client):
    (decision,) = promote(client, NAME, [PI])
    assert (decision.outcome, decision.version) == ("none feasible", None)


def test_an_alias_moved_by_hand_is_noticed_and_left_alone(client, fleet):
    promote(client, NAME, [PI])
    client.set_registered_model_alias(NAME, "pi", "3")
    (decision,) = promote(client, NAME, [PI])
    assert (decision.outcome, decision.version) == ("kept", 3)
    assert decision.reason == (
        "alias 'pi' is on version 3 by hand (promotion had put it on version 2) "
        "and is left alone until taken over"
    )
    assert aliases(client)["pi"] == 3
    (decision,) = promote(client, NAME, [PI], take_over=True)
    assert (decision.outcome, decision.version, decision.incumbent) == ("promoted", 2, 3)
    assert aliases(client) == {"pi": 2, "pi-previous": 3}


def test_an_alias_removed_by_hand_is_left_alone(client, fleet):
    promote(client, NAME, [PI])
    client.delete_registered_model_alias(NAME, "pi")
    (decision,) = promote(client, NAME, [PI])
    assert (decision.outcome, decision.version) == ("kept", None)
    assert "was removed by hand" in decision.reason
    assert aliases(client) == {}


def test_a_deleted_version_is_replaced_and_mentioned(client, fleet):
    promote(client, NAME, [PI])
    client.delete_model_version(NAME, "2")
    (decision,) = promote(client, NAME, [PI])
    assert (decision.outcome, decision.version) == ("promoted", 1)
    assert decision.reason.endswith("version 2, where the alias was, has been deleted")
    assert aliases(client) == {"pi": 1}


def test_an_incumbent_with_an_edited_tag_is_replaced_and_mentioned(client, fleet):
    promote(client, NAME, [PI])
    client.set_model_version_tag(NAME, "2", "compress.accuracy", "0.99")
    (decision,) = promote(client, NAME, [PI])
    assert (decision.outcome, decision.version, decision.incumbent) == ("promoted", 1, 2)
    assert "version 2 is left out: tag compress.accuracy says 0.99" in decision.reason


def test_stale_numbers_never_promote(client, fleet):
    (decision,) = promote(client, NAME, [PI], rows="ef" * 32)
    assert decision.outcome == "none feasible"
    assert "measured on other rows" in decision.reason


def test_the_incumbent_is_scored_on_todays_rows(client, fleet, make_variant, log_variant):
    from mlflow_compress.records import DatasetRef

    promote(client, NAME, [PI])
    today = DatasetRef("digits", "ef" * 32, 1000)
    register_variants(client, NAME, [log_variant(make_variant("today", size=19_990, rows=today))])
    asked = []

    def rescore(variant):
        asked.append(variant.version)
        accuracy = replace(variant.report.accuracy, dataset=today)
        return replace(variant, report=replace(variant.report, accuracy=accuracy))

    (decision,) = promote(client, NAME, [PI], rows=today.digest, rescore=rescore)
    # Version 4 is smaller by 0.05 %, which does not flip the alias of an incumbent that passes.
    assert (decision.outcome, decision.version, asked) == ("kept", 2, [2])


def test_a_rolled_back_version_does_not_come_back(client, fleet):
    promote(client, NAME, [PI])
    client.set_model_version_tag(NAME, "2", "compress.quarantine.pi", "2026-01-01")
    (decision,) = promote(client, NAME, [PI])
    assert (decision.outcome, decision.version) == ("promoted", 1)
    assert [d.version for d in promote(client, NAME, [PI, SERVER])] == [1, 1]


def test_a_name_with_a_quote_in_it(client, make_variant, log_variant):
    for _ in range(2):
        register_variants(client, "it's lenet", [log_variant(make_variant("a"))])
        (decision,) = promote(client, "it's lenet", [PI])
    assert (decision.outcome, decision.version) == ("kept", 1)
    with pytest.raises(ConfigError, match="both kinds of quotes"):
        promote(client, 'it\'s "lenet"', [PI])
