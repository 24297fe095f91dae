"""Versions from before outputs were judged each are read, and count once they are scored anew."""

from dataclasses import replace

import pytest

from mlflow_compress.records import DatasetRef, Fidelity
from mlflow_compress.registry import best_for, check, decide, promote, read_variants
from mlflow_compress.registry.order import comparable, dominates, improvement
from mlflow_compress.targets import AccuracyLimits, Limits, Target
from tests.judged import fidelity
from tests.registry.fleet import NAME, PI, aliases

ROWS = DatasetRef("digits", "ab" * 32, 1000)
OLDER = Fidelity(0.995, 0.001, ROWS)
TODAYS = fidelity(0.995, 0.001, ROWS)
REASON = "was judged by an older rule, which looked at the first output alone; run the job again"
SIZE = Limits(size_bytes=50_000)


def failed(variant, target):
    return {gate.name: gate.reason for gate in check(variant, target) if not gate.passed}


@pytest.mark.parametrize(
    ("limits", "gates"),
    [
        (AccuracyLimits(max_drop=0.01), {"accuracy_drop": "accuracy drop"}),
        (AccuracyLimits(min=0.9), {"accuracy": "accuracy"}),
        (AccuracyLimits(min_agreement=0.9), {"agreement": "agreement"}),
        (AccuracyLimits(max_kl=1.0), {"kl": "kl"}),
        (AccuracyLimits(max_error=0.4), {"outputs": "fidelity"}),
        (AccuracyLimits(limits={"y": {"agreement": 0.0}}), {"outputs": "fidelity"}),
        (AccuracyLimits(), {"outputs": "fidelity"}),
    ],
    ids=["drop", "accuracy", "agreement", "kl", "error", "by name", "defaults"],
)
def test_its_quality_does_not_count(make_variant, limits, gates):
    target = Target("pi", SIZE, limits)
    older, newer = (make_variant(fidelity=one) for one in (OLDER, TODAYS))
    assert failed(older, target) == {gate: f"{what} {REASON}" for gate, what in gates.items()}
    assert failed(newer, target) == {}


@pytest.mark.parametrize("with_labels", [True, False])
def test_it_is_not_compared_with_a_new_one(make_variant, with_labels):
    target = Target("pi", SIZE, AccuracyLimits(min_agreement=0.9), objective="accuracy")
    older = make_variant("older", version=1, fidelity=replace(OLDER, agreement=1.0))
    newer = make_variant("newer", version=2, fidelity=TODAYS)
    if not with_labels:
        older, newer = (
            replace(one, report=replace(one.report, accuracy=None)) for one in (older, newer)
        )
    assert not comparable(older, newer, target)
    assert not dominates(older, newer, target)
    assert not dominates(newer, older, target)
    assert improvement(newer, older, target) == improvement(older, newer, target) == 0.0
    assert best_for([older, newer], target) == (newer, True)
    decision = decide([older, newer], target, older)
    assert (decision.outcome, decision.version) == ("promoted", 2)
    assert decision.reason.endswith("version 1 fails its gates today")
    assert decide([older], target, older).outcome == "none feasible"


def test_outputs_that_are_named_have_to_be_there(make_variant):
    target = Target("pi", SIZE, AccuracyLimits(limits={"z": {"cosine": 0.9}}))
    assert failed(make_variant(fidelity=TODAYS), target) == {
        "cosine of z": "output 'z' was not judged"
    }
    assert failed(make_variant(), target) == {"outputs": "fidelity was not measured"}
    nothing = make_variant()
    nothing = replace(nothing, report=replace(nothing.report, accuracy=None))
    assert failed(nothing, Target("pi", SIZE)) == {"outputs": "fidelity was not measured"}


@pytest.fixture
def older(client, add, monkeypatch):
    """A version that ``pi`` was promoted to by the older rule."""
    version = add("older", 20_000, fidelity=OLDER)
    with monkeypatch.context() as then:
        then.setattr(Fidelity, "is_whole", True)
        (decision,) = promote(client, NAME, [PI])
    assert (decision.outcome, decision.version) == ("promoted", version)
    return version


def test_it_is_read_and_stays_where_nothing_else_passes(client, older):
    (read,) = read_variants(client, NAME)
    assert read.report.fidelity == OLDER
    (decision,) = promote(client, NAME, [PI])
    assert (decision.outcome, decision.version) == ("none feasible", older)
    assert REASON in decision.reason
    assert aliases(client) == {"pi": older}


def test_a_new_one_takes_its_place(client, older, add):
    newer = add("newer", 40_000, fidelity=TODAYS)
    (decision,) = promote(client, NAME, [PI])
    assert (decision.outcome, decision.version) == ("promoted", newer)
    assert aliases(client) == {"pi": newer, "pi-previous": older}


def test_scored_anew_it_is_promoted_again(client, older, add):
    add("larger", 40_000, fidelity=TODAYS)
    scored = []

    def rescore(variant):
        scored.append(variant.version)
        return replace(variant, report=replace(variant.report, fidelity=TODAYS))

    # The rows are those that it was scored on; only the rule is another one.
    (decision,) = promote(client, NAME, [PI], rows=ROWS.digest, rescore=rescore)
    assert (decision.outcome, decision.version, scored) == ("kept", older, [older])
    assert all(gate.passed for gate in decision.gates[older])
    assert aliases(client) == {"pi": older}
