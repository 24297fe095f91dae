"""A quarantine lasts until it is lifted."""

from dataclasses import replace

import pytest

from mlflow_compress.errors import ConfigError
from mlflow_compress.registry import (
    promote,
    quarantine,
    read_state,
    register_variants,
    rollback,
    status,
    unquarantine,
)
from tests.registry.fleet import NAME, PI, aliases, promote_pi


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
