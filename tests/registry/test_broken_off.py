"""What was broken off, decided otherwise since, or written by others."""

import os
from dataclasses import replace

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
    reject,
    rollback,
    status,
    unquarantine,
)
from mlflow_compress.targets import AccuracyLimits
from mlflow_compress.tracking.owner import owner
from tests.registry.fleet import NAME, PI, aliases, promote_pi


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


@pytest.mark.parametrize("text", ["²", "9" * 5000, "-1"])
def test_a_promoted_tag_that_makes_no_sense_breaks_nothing(client, promoted, text):
    client.set_registered_model_tag(NAME, "compress.promoted.pi", text)
    client.delete_registered_model_alias(NAME, "pi")
    (found,) = status(client, NAME)
    assert (found.version, found.by_hand, found.deleted) == (None, True, None)
    assert promote_pi(client).version == 3


def test_who_finishes_what_another_began_is_named(client, promoted, break_off, monkeypatch):
    monkeypatch.setattr(default_context, "_get_user", lambda: "alice")
    break_off(lambda: rollback(client, NAME, "pi"), "set_terminated")
    monkeypatch.setattr(default_context, "_get_user", lambda: "bob")
    rollback(client, NAME, "pi")
    newest = history(client, NAME, "pi")[0]
    assert (newest.by, newest.finished_by) == ("alice", "bob")
