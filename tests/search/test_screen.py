"""Cheap checks: what no target can take is not measured to the end, and nothing else is dropped."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from mlflow_compress import measure
from mlflow_compress.records import Trial
from mlflow_compress.search import (
    DroppedError,
    NullObserver,
    Screen,
    SearchInfo,
    SearchOptions,
    Space,
    TrialEvaluator,
    get_strategy,
    run_search,
)
from mlflow_compress.targets import load_target
from mlflow_compress.techniques import normalize
from tests.tiny import CLASSES, tiny_model

OBJECTIVES = ("rate", "accuracy")
INFO = SearchInfo("t", "models:/t/1", "0" * 64, 1000, "manual")
ROWS = 3000
DROP = {"accuracy": {"max_drop": 0.02}}


def target(name="device", **keys):
    return load_target({"name": name, **DROP, **keys})


@pytest.fixture
def evaluator(tmp_path):
    model = normalize(tiny_model())
    x = np.random.default_rng(1).normal(size=(ROWS, 16)).astype(np.float32)
    rows = measure.Dataset({"x": x})
    labels = next(iter(measure.run(measure.open_session(model), rows).values())).argmax(axis=1)
    order = np.argsort(labels)  # sorted by class, as data often come
    return TrialEvaluator(
        source=model,
        uri="models:/tiny/1",
        source_digest=hashlib.sha256(model.SerializeToString()).hexdigest(),
        source_bytes=measure.weight_bytes(model),
        evaluation=measure.Dataset({"x": x[order]}, labels[order]),
        outputs=CLASSES,
        work_dir=tmp_path,
        latency_rounds=0,
    )


GOOD = [{"share": {"clusters": 64}}]
BAD = [{"prune": {"sparsity": 0.9}}]
"""Loses some twenty points; smaller than the others."""
LARGE = []
WORSE = [{"prune": {"sparsity": 0.65}}]
"""Loses as much, and is larger than GOOD."""


def search(evaluator, targets, recipes):
    evaluator = replace(evaluator, screen=Screen(targets, OBJECTIVES) if targets else None)
    return run_search(
        Space.parse(recipes), get_strategy("manual"), evaluator, NullObserver(), INFO,
        SearchOptions(trials=100, objectives=OBJECTIVES, window=1),
    )  # fmt: skip


def states(trials):
    return [trial.state for trial in trials]


def test_a_file_beyond_every_target_s_limit_is_not_scored(evaluator):
    targets = [target(limits={"size": "3kB"}), target("other", limits={"size": "2500B"})]
    trials = search(evaluator, targets, [GOOD, LARGE])
    assert states(trials) == ["complete", "dropped"]
    assert "is more than 3 kB" in trials[1].error
    assert trials[1].variant is None
    assert trials[1].partial.size_bytes > 3000
    assert trials[1].partial.accuracy is None


def test_one_target_without_a_limit_keeps_large_files(evaluator):
    targets = [target(limits={"size": "3kB"}), target("server")]
    assert states(search(evaluator, targets, [GOOD, LARGE])) == ["complete"] * 2


def test_nothing_is_dropped_before_every_target_has_what_it_needs(evaluator):
    """Until then the variant that comes closest is what gets registered, so all are measured."""
    targets = [target(limits={"size": "3kB"}), target("tiny", limits={"size": "500B"})]
    assert states(search(evaluator, targets, [GOOD, LARGE])) == ["complete"] * 2
    assert (
        states(search(evaluator, [target(limits={"size": "3kB"})], [LARGE, GOOD]))
        == ["complete"] * 2
    )


def test_hopeless_accuracy_ends_early_when_the_front_has_better(evaluator):
    trials = search(evaluator, [target()], [GOOD, WORSE])
    assert states(trials) == ["complete", "dropped"]
    assert "points at the least, by its first 256 rows" in trials[1].error
    assert trials[1].partial.accuracy.dataset.rows == 256
    whole = search(evaluator, [], [WORSE])[0].variant.report.accuracy
    interval = trials[1].partial.accuracy.drop_interval
    assert interval.low <= whole.drop <= interval.high, "rows are drawn at random, not from the top"


def test_what_could_reach_the_front_is_measured_to_the_end(evaluator):
    trials = search(evaluator, [target()], [GOOD, BAD])
    assert states(trials) == ["complete"] * 2
    assert trials[1].variant.report.accuracy.drop > 0.02
    assert trials[1].variant.report.rate > trials[0].variant.report.rate


def test_a_target_content_with_it_keeps_it(evaluator):
    loose = load_target({"name": "loose", "accuracy": {"max_drop": 0.9}})
    assert states(search(evaluator, [target(), loose], [GOOD, WORSE])) == ["complete"] * 2


def test_agreement_alone_is_enough_to_drop(evaluator):
    evaluator = replace(evaluator, evaluation=measure.Dataset(evaluator.evaluation.inputs))
    device = load_target({"name": "device", "accuracy": {"min_agreement": 0.97}})
    screened = replace(evaluator, screen=Screen([device], ("rate", "agreement")))
    trials = run_search(
        Space.parse([GOOD, WORSE]), get_strategy("manual"), screened, NullObserver(), INFO,
        SearchOptions(trials=9, objectives=("rate", "agreement"), window=1),
    )  # fmt: skip
    assert states(trials) == ["complete", "dropped"]
    seen = trials[1].partial.fidelity
    assert trials[1].error == (
        f"is too far from the source ({100 * seen.agreement:.2f} % agree), by its first 256 rows"
    )
    assert seen.best_quality < 0.97, "even at the better end of its interval"


def test_a_profile_that_no_target_loads_is_not_even_compressed(evaluator):
    device = target(execution={"profiles": ["portable"]})
    portable = [*GOOD, {"pack": {"profile": "portable"}}]
    trials = search(evaluator, [device], [portable, GOOD])
    assert states(trials) == ["complete", "dropped"]
    assert trials[1].error == "no target loads the profile compact"


def test_limits_measured_later_are_not_met_yet(evaluator):
    device = target(limits={"size": "3kB", "latency_p50": "1ms"}, measured_on="ssh://pi@board")
    assert states(search(evaluator, [device], [GOOD, LARGE])) == ["complete"] * 2


def test_full_measures_are_the_same_with_and_without_the_screen(evaluator):
    with_it = search(evaluator, [target()], [GOOD, BAD])
    without = search(evaluator, [], [GOOD, BAD])
    assert [t.variant.report for t in with_it] == [t.variant.report for t in without]


def test_strategies_hear_of_dropped_trials(evaluator):
    """A sampler that heard nothing would propose files that are too large again and again."""
    from mlflow_compress.search.proposals import Proposals

    space = Space.parse([[{"share": {"clusters": {"choices": [2, 4, 8]}}}]])
    device = target(limits={"size": "3kB"})
    heard = Proposals(
        space, get_strategy("tpe"), OBJECTIVES, 0, lambda variant: {"size": 0.5, "drop": 0.1}
    )
    proposal = heard.next()
    partial = search(evaluator, [], [GOOD])[0].variant.report
    partial = replace(partial, accuracy=None)
    heard.tell(proposal, Trial(0, "k", proposal.recipe, "dropped", error="no", partial=partial))
    (told,) = heard._study.trials
    assert told.state.name == "COMPLETE"
    assert told.values == [pytest.approx(np.log10(partial.rate)), pytest.approx(0.1)]
    assert device.limits.size_bytes == 3000


def test_a_dropped_variant_is_an_error_with_its_reason():
    assert str(DroppedError("too large", None)) == "too large"


def test_what_no_runtime_loads_is_dropped_at_once_and_before_any_row(evaluator, monkeypatch):
    ran = []
    monkeypatch.setattr(measure, "run", lambda *_: ran.append(1))
    poor = target(execution={"without_operators": ["Relu"]})
    (trial,) = search(evaluator, [poor], [GOOD])
    assert trial.state == "dropped"
    assert "no operator Relu (node 'r')" in trial.error
    assert trial.partial.size_bytes > 0
    assert trial.partial.accuracy is None
    assert ran == []


def test_what_some_runtime_loads_goes_on(evaluator):
    poor = target(execution={"without_operators": ["Relu"]})
    assert states(search(evaluator, [poor, target("other")], [GOOD])) == ["complete"]
