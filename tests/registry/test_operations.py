import json
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.tracking.context import default_context

from mlflow_compress.errors import ConfigError
from mlflow_compress.registry import (
    approve,
    history,
    promote,
    quarantine,
    reject,
    rollback,
    status,
    unquarantine,
)
from tests.registry.fleet import NAME, PI, aliases, promote_pi


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


def test_a_version_is_kept_from_a_shipped_target_before_it_gets_there(client, promoted):
    quarantine(client, NAME, 1, "browser")
    there = {one.target: one for one in status(client, NAME)}
    assert (there["browser"].version, there["browser"].quarantined) == (None, (1,))
    assert not there["browser"].by_hand


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (lambda c: rollback(c, "nothing", "pi"), "there is no registered model 'nothing'"),
        (lambda c: rollback(c, NAME, "car"), "'lenet-edge' has no target 'car' .targets: pi"),
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
    assert decision.reason.startswith("the promotion to version 1 waits for approval: ")
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
    assert " was rejected: " in decision.reason
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
