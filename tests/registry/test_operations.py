import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.tracking.context import default_context

from mlflow_compress.errors import ConfigError
from mlflow_compress.registry import (
    approve,
    decisions,
    history,
    promote,
    quarantine,
    read_state,
    register_variants,
    reject,
    rollback,
    status,
    unquarantine,
)
from mlflow_compress.registry.owner import owner
from mlflow_compress.targets import AccuracyLimits, Limits, Target

NAME = "lenet-edge"
PI = Target("pi", Limits(size_bytes=50_000), AccuracyLimits(max_drop=0.01))


@pytest.fixture
def add(client, make_variant, log_variant):
    """Return a function that registers one more variant."""

    def register(key, size, **numbers):
        variant = log_variant(make_variant(key, size=size, **numbers))
        (variant,) = register_variants(client, NAME, [variant])
        return variant.version

    return register


@pytest.fixture
def promoted(client, add):
    """``pi`` was on version 1, then on 2, and is on 3."""
    for key, size in (("a", 40_000), ("b", 30_000), ("c", 20_000)):
        add(key, size)
        promote(client, NAME, [PI])


def aliases(client):
    return {name: int(v) for name, v in client.get_registered_model(NAME).aliases.items()}


def promote_pi(client, **options):
    (decision,) = promote(client, NAME, [PI], **options)
    return decision


def test_a_rollback_goes_back_and_its_version_does_not_come_back(client, promoted):
    assert aliases(client) == {"pi": 3, "pi-previous": 2}
    decision = rollback(client, NAME, "pi", why="crashes on boot")
    assert (decision.outcome, decision.version, decision.incumbent) == ("rolled back", 2, 3)
    assert decision.reason == "rolled back from version 3 to version 2: crashes on boot"
    assert aliases(client) == {"pi": 2, "pi-previous": 1}
    again = promote_pi(client)
    assert (again.outcome, again.version) == ("kept", 2)
    tag = client.get_model_version(NAME, "3").tags["compress.quarantine.pi"]
    assert tag.endswith("crashes on boot")


def test_a_second_rollback_goes_further_back(client, promoted):
    rollback(client, NAME, "pi")
    rollback(client, NAME, "pi")
    assert aliases(client) == {"pi": 1}
    with pytest.raises(ConfigError, match="no version before 1 is known; name one with --to"):
        rollback(client, NAME, "pi")
    assert promote_pi(client).version == 1


def test_a_rollback_to_a_named_version(client, promoted):
    rollback(client, NAME, "pi", to=1)
    assert aliases(client) == {"pi": 1}


def test_a_released_version_may_come_back(client, promoted):
    rollback(client, NAME, "pi")
    unquarantine(client, NAME, 3, "pi")
    decision = promote_pi(client)
    assert (decision.outcome, decision.version) == ("promoted", 3)


def test_a_quarantine_by_hand(client, promoted):
    quarantine(client, NAME, 3, "pi", why="recall")
    decision = promote_pi(client)
    assert (decision.outcome, decision.version) == ("promoted", 2)
    with pytest.raises(ConfigError, match="version 3 is quarantined for 'pi' itself"):
        rollback(client, NAME, "pi", to=3)


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (lambda c: rollback(c, "nothing", "pi"), "there is no registered model 'nothing'"),
        (lambda c: rollback(c, NAME, "car"), "target 'car' has no version of 'lenet-edge'"),
        (lambda c: rollback(c, NAME, "pi", to=9), r"has no version 9 \(versions: 1, 2, 3\)"),
        (lambda c: rollback(c, NAME, "pi", to=3), "target 'pi' is on version 3 already"),
        (lambda c: quarantine(c, NAME, 9, "pi"), "has no version 9"),
        (lambda c: unquarantine(c, NAME, 1, "pi"), "version 1 .* is not quarantined for 'pi'"),
        (lambda c: approve(c, NAME, "pi"), "no promotion to 'pi' of 'lenet-edge' waits"),
        (lambda c: reject(c, NAME, "pi"), "no promotion to 'pi' of 'lenet-edge' waits"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(client, promoted, operation, message):
    before = aliases(client)
    with pytest.raises(ConfigError, match=message) as caught:
        operation(client)
    assert "\n" not in str(caught.value)
    assert aliases(client) == before


@pytest.mark.parametrize(
    "broken",
    ["set_model_version_tag", "set_registered_model_tag", "set_registered_model_alias"],
)
def test_a_rollback_that_was_broken_off_is_finished_not_repeated(
    client, promoted, monkeypatch, broken
):
    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(client, broken, interrupt)
        with pytest.raises(KeyboardInterrupt):
            rollback(client, NAME, "pi")
    decision = rollback(client, NAME, "pi")
    assert (decision.version, decision.incumbent) == (2, 3)
    assert aliases(client) == {"pi": 2, "pi-previous": 1}
    assert [d.outcome for d in history(client, NAME, "pi")].count("rolled back") == 1
    assert all(d.status == "FINISHED" for d in history(client, NAME, "pi"))
    assert promote_pi(client).outcome == "kept"


def test_the_history_tells_every_decision(client, promoted):
    rollback(client, NAME, "pi", why="slow")
    found = [(d.outcome, d.version, d.incumbent) for d in history(client, NAME, "pi")]
    assert found == [
        ("rolled back", 2, 3),
        ("promoted", 3, 2),
        ("promoted", 2, 1),
        ("promoted", 1, None),
    ]
    assert all(d.reason for d in history(client, NAME, "pi"))


def test_a_rollback_is_a_run_with_its_reason(client, promoted, tmp_path):
    decision = rollback(client, NAME, "pi", why="slow")
    path = client.download_artifacts(decision.run_id, "decision.md", str(tmp_path))
    text = Path(path).read_text()
    assert text == (
        "# lenet-edge@pi: rolled back, version 2\n\n"
        "rolled back from version 3 to version 2: slow.\n"
    )
    path = client.download_artifacts(decision.run_id, "decision.json", str(tmp_path))
    assert json.loads(Path(path).read_text())["incumbent"] == 3


def test_status_says_what_and_since_when_and_why(client, promoted):
    (found,) = status(client, NAME)
    (latest, *_) = history(client, NAME, "pi")
    assert (found.target, found.version, found.previous) == ("pi", 3, 2)
    assert (found.rate, found.accuracy, found.latency_ms) == (50.0, 0.95, 1.0)
    assert (found.run_id, found.since_ms) == (latest.run_id, latest.start_ms)
    assert found.reason == latest.reason
    assert not found.by_hand
    rollback(client, NAME, "pi")
    (found,) = status(client, NAME)
    assert (found.version, found.quarantined) == (2, (3,))
    assert found.reason.startswith("rolled back")


def test_status_notices_a_hand_on_the_alias_and_on_the_tags(client, promoted):
    client.set_registered_model_alias(NAME, "pi", "1")
    client.set_model_version_tag(NAME, "1", "compress.rate", "999")
    (found,) = status(client, NAME)
    assert found.by_hand
    assert (found.version, found.rate, found.run_id) == (1, None, "")
    assert "tag compress.rate says 999" in found.problem


def test_a_promotion_waits_for_approval(client, add):
    add("a", 40_000)
    decision = promote_pi(client, require_approval=True)
    assert (decision.outcome, decision.version) == ("kept", None)
    assert decision.reason.endswith("; waits for approval")
    assert aliases(client) == {}
    (asked,) = status(client, NAME)
    assert (asked.target, asked.version, asked.waiting) == ("pi", None, 1)
    promote_pi(client, require_approval=True)
    assert [d.outcome for d in history(client, NAME, "pi")] == ["pending"]
    approved = approve(client, NAME, "pi")
    assert approved.version == 1
    assert aliases(client) == {"pi": 1}
    assert promote_pi(client, require_approval=True).outcome == "kept"
    assert [(d.outcome, d.approval) for d in history(client, NAME, "pi")] == [
        ("promoted", ""),
        ("pending", "approved"),
    ]
    with pytest.raises(ConfigError, match="waits for approval"):
        approve(client, NAME, "pi")


def test_a_rejected_promotion_is_not_asked_for_again(client, promoted, add):
    add("d", 10_000)
    promote_pi(client, require_approval=True)
    (found,) = status(client, NAME)
    assert (found.version, found.waiting) == (3, 4)
    reject(client, NAME, "pi")
    decision = promote_pi(client, require_approval=True)
    assert (decision.outcome, decision.version) == ("kept", 3)
    assert decision.reason.endswith("; was rejected")
    assert aliases(client)["pi"] == 3
    assert [d.outcome for d in history(client, NAME, "pi")].count("pending") == 1


def test_the_history_names_who_decided(client, add, monkeypatch):
    def be(user):
        monkeypatch.setattr(default_context, "_get_user", lambda: user)

    add("a", 40_000)
    be("asks")
    promote_pi(client, require_approval=True)
    be("rejects")
    reject(client, NAME, "pi")
    add("b", 20_000)
    be("asks again")
    promote_pi(client, require_approval=True)
    be("approves")
    approve(client, NAME, "pi")
    assert [(d.outcome, d.by, d.settled_by) for d in history(client, NAME, "pi")] == [
        ("promoted", "approves", ""),
        ("pending", "asks again", "approves"),
        ("pending", "asks", "rejects"),
    ]


def test_an_approval_of_what_is_no_longer_so_is_refused(client, promoted, add):
    add("d", 10_000)
    promote_pi(client, require_approval=True)
    client.set_registered_model_alias(NAME, "pi", "1")
    with pytest.raises(ConfigError, match="has moved to version 1 since"):
        approve(client, NAME, "pi")
    client.set_registered_model_alias(NAME, "pi", "3")
    quarantine(client, NAME, 4, "pi")
    with pytest.raises(ConfigError, match="version 4 is quarantined for 'pi'"):
        approve(client, NAME, "pi")
    client.delete_model_version(NAME, "4")
    with pytest.raises(ConfigError, match=r"version 4 .* is gone or was edited"):
        approve(client, NAME, "pi")
    assert aliases(client)["pi"] == 3


def test_an_approval_that_was_broken_off_is_finished(client, promoted, add, monkeypatch):
    add("d", 10_000)
    promote_pi(client, require_approval=True)

    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(client, "set_tag", interrupt)
        with pytest.raises(KeyboardInterrupt):
            approve(client, NAME, "pi")
    assert aliases(client)["pi"] == 4
    approve(client, NAME, "pi")
    known = history(client, NAME, "pi")
    assert [d.outcome for d in known][:2] == ["promoted", "pending"]
    assert all(d.status == "FINISHED" for d in known)


def test_targets_are_apart(client, promoted):
    car = replace(PI, name="car")
    promote(client, NAME, [car])
    rollback(client, NAME, "pi")
    assert aliases(client)["car"] == 3
    assert [s.target for s in status(client, NAME)] == ["car", "pi"]
    (decision,) = promote(client, NAME, [car])
    assert (decision.outcome, decision.version) == ("kept", 3)


@pytest.fixture
def break_off(client, monkeypatch):
    """Return a function that lets a job die where it first calls a method of the client."""

    def do(action, where):
        gone = os.fork()
        if gone == 0:
            os._exit(0)
        os.waitpid(gone, 0)

        def die(*args, **kwargs):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            host = owner().rpartition(":")[0]
            patch.setattr(decisions, "owner", lambda: f"{host}:{gone}")
            patch.setattr(client, where, die)
            with pytest.raises(KeyboardInterrupt):
                action()

    return do


@pytest.mark.parametrize("where", ["set_terminated", "set_registered_model_alias"])
def test_a_rollback_that_died_is_not_done_twice_whatever_promotes_since(
    client, promoted, break_off, where
):
    break_off(lambda: rollback(client, NAME, "pi"), where)
    promote_pi(client)
    assert rollback(client, NAME, "pi").version == 2
    assert aliases(client) == {"pi": 2, "pi-previous": 1}
    (found,) = status(client, NAME)
    assert found.quarantined == (3,)
    assert {d.status for d in history(client, NAME, "pi")} == {"FINISHED"}


def test_a_rollback_whose_alias_has_moved_since_is_given_up(client, promoted, break_off):
    break_off(lambda: rollback(client, NAME, "pi"), "set_registered_model_alias")
    client.set_registered_model_alias(NAME, "pi", "1")
    with pytest.raises(ConfigError, match="has moved to version 1 since, and it is given up"):
        rollback(client, NAME, "pi")
    assert aliases(client)["pi"] == 1
    with pytest.raises(ConfigError, match="on version 1 already"):
        rollback(client, NAME, "pi", 1)


def test_a_rollback_to_what_was_deleted_says_so(client, promoted, break_off):
    break_off(lambda: rollback(client, NAME, "pi"), "set_registered_model_alias")
    client.delete_model_version(NAME, "2")
    with pytest.raises(ConfigError, match="version 2 of 'lenet-edge' is gone: alias 'pi' is on v"):
        rollback(client, NAME, "pi")
    assert aliases(client)["pi"] == 3
    assert history(client, NAME, "pi")[0].status == "KILLED"
    rollback(client, NAME, "pi", 1)
    assert aliases(client)["pi"] == 1
    assert promote_pi(client).reason.count("by hand") == 0


def test_a_promotion_that_was_carried_out_counts_though_its_job_died(
    client, promoted, add, break_off
):
    add("d", 10_000)
    break_off(lambda: promote_pi(client), "set_terminated")
    add("e", 5_000)
    promote_pi(client)
    assert [(d.version, d.status) for d in history(client, NAME, "pi")][:2] == [
        (5, "FINISHED"),
        (4, "FINISHED"),
    ]


def test_a_job_that_died_between_its_writes_freezes_nothing(client, promoted, add, break_off):
    add("d", 10_000)
    break_off(lambda: promote_pi(client), "set_registered_model_alias")
    quarantine(client, NAME, 4, "pi")
    for _ in range(2):
        decision = promote_pi(client)
        assert (decision.outcome, decision.version) == ("kept", 3)
        assert "by hand" not in decision.reason
    unquarantine(client, NAME, 4, "pi")
    assert promote_pi(client).version == 4


def test_what_was_decided_since_ends_a_request(client, promoted, add):
    add("d", 10_000, accuracy=0.945)
    promote_pi(client, require_approval=True)
    strict = replace(PI, accuracy=AccuracyLimits(max_drop=0.001))
    promote(client, NAME, [strict], require_approval=True)
    (found,) = status(client, NAME)
    assert found.waiting is None
    with pytest.raises(ConfigError, match="waits for approval"):
        approve(client, NAME, "pi")
    assert aliases(client)["pi"] == 3
    promote_pi(client, require_approval=True)
    assert approve(client, NAME, "pi").version == 4


def test_a_quarantine_at_the_moment_of_an_approval_counts(client, promoted, add, monkeypatch):
    add("d", 10_000)
    promote_pi(client, require_approval=True)
    real = client.set_registered_model_alias

    def quarantined_meanwhile(name, alias, version):
        if version == "4":
            quarantine(MlflowClient(client.tracking_uri), NAME, 4, "pi", why="recall")
        real(name, alias, version)

    monkeypatch.setattr(client, "set_registered_model_alias", quarantined_meanwhile)
    with pytest.raises(ConfigError, match="version 4 of 'lenet-edge' is quarantined: alias 'pi'"):
        approve(client, NAME, "pi")
    assert aliases(client)["pi"] == 3
    assert promote_pi(client).version == 3


def test_a_rejected_or_undone_request_can_be_made_again(client, promoted, add):
    add("d", 10_000)
    promote_pi(client, require_approval=True)
    client.set_registered_model_alias(NAME, "pi", "1")
    reject(client, NAME, "pi")
    promote_pi(client, require_approval=True, take_over=True)
    assert approve(client, NAME, "pi").version == 4
    rollback(client, NAME, "pi")
    unquarantine(client, NAME, 4, "pi")
    promote_pi(client, require_approval=True)
    assert approve(client, NAME, "pi").version == 4


def test_the_way_back_passes_by_what_was_quarantined_or_deleted(client, promoted):
    quarantine(client, NAME, 3, "pi", why="recall")
    assert promote_pi(client).version == 2
    assert rollback(client, NAME, "pi").version == 1


def test_the_way_back_after_a_deletion(client, promoted):
    client.delete_model_version(NAME, "3")
    assert promote_pi(client).version == 2
    assert rollback(client, NAME, "pi").version == 1


def test_runs_of_others_do_not_pass_for_decisions(client, promoted):
    known = [d.run_id for d in history(client, NAME, "pi")]
    genuine = client.get_run(known[0]).data.tags
    forged = genuine | {"compress.outcome": "pending", "compress.approval": "waiting"}
    somewhere = client.create_experiment("somebody's")
    client.create_run(somewhere, tags=forged | {"compress.version": "1"})
    assert [d.run_id for d in history(client, NAME, "pi")] == known
    assert status(client, NAME)[0].waiting is None


@pytest.mark.parametrize(
    "tags",
    [
        {"compress.version": "²", "compress.incumbent": "9" * 5000},
        {"compress.target": "x'y", "compress.outcome": "pending", "compress.approval": "waiting"},
        {"compress.owner": f"{owner().rpartition(':')[0]}:{'9' * 20}"},
    ],
)
def test_tags_that_make_no_sense_break_nothing(client, promoted, tags):
    genuine = client.get_run(history(client, NAME, "pi")[0].run_id)
    client.create_run(genuine.info.experiment_id, tags=genuine.data.tags | tags)
    assert status(client, NAME)[0].version == 3
    assert promote_pi(client).version == 3
    assert history(client, NAME, "pi")


def test_who_finishes_what_another_began_is_named(client, promoted, break_off, monkeypatch):
    monkeypatch.setattr(default_context, "_get_user", lambda: "alice")
    break_off(lambda: rollback(client, NAME, "pi"), "set_terminated")
    monkeypatch.setattr(default_context, "_get_user", lambda: "bob")
    rollback(client, NAME, "pi")
    newest = history(client, NAME, "pi")[0]
    assert (newest.by, newest.finished_by) == ("alice", "bob")


@pytest.fixture
def rolled_back(client, make_variant, log_variant):
    """``pi`` is on version 1; version 2 was rolled back and is deleted. Return both variants."""
    made = [log_variant(make_variant(key, size=size)) for key, size in (("a", 9_000), ("b", 8_000))]
    for variant in made:
        register_variants(client, NAME, [variant])
        promote(client, NAME, [PI])
    rollback(client, NAME, "pi", why="bricks devices")
    client.delete_model_version(NAME, "2")
    return made


def test_a_quarantine_outlives_its_version(client, rolled_back):
    known, again = register_variants(client, NAME, rolled_back)
    assert (known.quarantined, again.version, again.quarantined) == (frozenset(), 3, {"pi"})
    assert read_state(client, NAME).variants == (known, again)
    assert promote_pi(client).outcome == "kept"
    assert aliases(client)["pi"] == 1
    (found,) = status(client, NAME)
    assert found.quarantined == (3,)
    with pytest.raises(ConfigError, match="version 3 is quarantined for 'pi' itself"):
        rollback(client, NAME, "pi", to=3)
    (car,) = promote(client, NAME, [replace(PI, name="car")])
    assert car.version == 3


def test_a_release_takes_the_lasting_quarantine_along(client, rolled_back):
    register_variants(client, NAME, rolled_back)
    unquarantine(client, NAME, 3, "pi")
    assert not any(tag.startswith("compress.quarantine") for tag in read_state(client, NAME).tags)
    assert promote_pi(client).version == 3


def test_quarantines_of_other_targets_and_variants_stay(client, promoted):
    for version, target in ((2, "pi"), (2, "car"), (3, "pi")):
        quarantine(client, NAME, version, target)
    unquarantine(client, NAME, 2, "pi")
    held = {v.version: v.quarantined for v in read_state(client, NAME).variants}
    assert held == {1: set(), 2: {"car"}, 3: {"pi"}}


@pytest.mark.parametrize("operation", [quarantine, unquarantine])
def test_a_quarantine_that_is_broken_off_keeps_the_version_out(
    client, promoted, monkeypatch, operation
):
    done = []
    if operation is unquarantine:
        quarantine(client, NAME, 3, "pi")
    with monkeypatch.context() as patch:
        for name in (
            "set_registered_model_tag",
            "set_model_version_tag",
            "delete_model_version_tag",
            "delete_registered_model_tag",
        ):
            real = getattr(client, name)

            def call(*args, real=real):
                if done:
                    raise KeyboardInterrupt
                done.append(real(*args))

            patch.setattr(client, name, call)
        with pytest.raises(KeyboardInterrupt):
            operation(client, NAME, 3, "pi")
    assert read_state(client, NAME).variant(3).quarantined == {"pi"}
    operation(client, NAME, 3, "pi")
    after = {"pi"} if operation is quarantine else set()
    assert read_state(client, NAME).variant(3).quarantined == after


def test_the_longest_name_fits_wherever_it_goes(client, add):
    longest = replace(PI, name="p" * 213)
    add("a", 20_000)
    add("b", 10_000)
    for version in (2, 1):
        quarantine(client, NAME, version, longest.name)
        unquarantine(client, NAME, version, longest.name)
    (decision,) = promote(client, NAME, [longest])
    assert (decision.outcome, decision.version) == ("promoted", 2)
    rollback(client, NAME, longest.name, to=1)
    assert aliases(client)[longest.name] == 1
    with pytest.raises(ConfigError, match=r"at most 213 characters, .* this has 214"):
        replace(PI, name="p" * 214)


def test_the_limit_of_a_name_is_the_limit_of_the_longest_tag_key(client, add):
    add("a", 20_000)
    quarantine(client, NAME, 1, "p" * 213)
    assert max(map(len, client.get_registered_model(NAME).tags)) == 250
