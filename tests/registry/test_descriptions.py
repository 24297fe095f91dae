"""Descriptions in the registry say what each target is on, and leave a person's own words alone."""

import pytest

from mlflow_compress.registry import approve, promote, register_variants, rollback
from mlflow_compress.registry.descriptions import BEGIN, END, with_section
from mlflow_compress.targets import AccuracyLimits, Limits, Target

NAME = "lenet-edge"
PI = Target("pi", Limits(size_bytes=50_000), AccuracyLimits(max_drop=0.01))
TINY = Target("tiny", Limits(size_bytes=5_000), AccuracyLimits(max_drop=0.01))


@pytest.fixture
def add(client, make_variant, log_variant):
    def register(key, size):
        made = log_variant(make_variant(key, size=size))
        register_variants(client, NAME, [made], targets=[PI, TINY])

    return register


def model_text(client):
    return client.get_registered_model(NAME).description


def version_text(client, version):
    return client.get_model_version(NAME, str(version)).description


def test_the_model_lists_its_devices_and_a_version_says_why(client, add):
    add("a", 40_000)
    promote(client, NAME, [PI, TINY])
    assert "| pi | 1 | 25.0x | 95.00 % | 40 kB | prune 0.9 |" in model_text(client)
    assert "| tiny | - |  |  |  | none is good enough; version 1: " in model_text(client)
    note = version_text(client, 1)
    assert note.startswith("25.0x smaller")
    assert "- **pi**: promoted on " in note
    assert "is the best of 1 feasible" in note


def test_they_follow_promotion_rollback_and_approval(client, add):
    add("a", 40_000)
    promote(client, NAME, [PI])
    add("b", 30_000)
    promote(client, NAME, [PI])
    assert "| pi | 2 |" in model_text(client)
    assert "- **pi**: left for version 2" in version_text(client, 1)
    rollback(client, NAME, "pi", why="crashes | <!-- on boot")
    assert "| pi | 1 |" in model_text(client)
    assert "- **pi**: rolled back on " in version_text(client, 1)
    left = version_text(client, 2)
    assert "left for version 1, quarantined " in left
    assert "crashes / ‹!-- on boot" in left
    add("c", 20_000)
    promote(client, NAME, [PI], require_approval=True)
    assert "| pi | 1 |" in model_text(client)
    approve(client, NAME, "pi")
    assert "| pi | 3 |" in model_text(client)
    assert "- **pi**: promoted on " in version_text(client, 3)


def test_deciding_again_writes_nothing(client, add):
    add("a", 40_000)
    promote(client, NAME, [PI])
    before = client.get_registered_model(NAME).last_updated_timestamp
    note = version_text(client, 1)
    promote(client, NAME, [PI])
    assert client.get_registered_model(NAME).last_updated_timestamp == before
    assert version_text(client, 1) == note


def test_a_persons_words_stay_and_what_died_unwritten_is_mended(client, add):
    add("a", 40_000)
    promote(client, NAME, [PI])
    client.update_registered_model(NAME, f"Ours.\n\n{BEGIN}\nold\n{END}\n\nAsk Ada.")
    client.update_model_version(NAME, "1", "Mine.")
    promote(client, NAME, [PI])
    text = model_text(client)
    assert text.startswith(f"Ours.\n\n{BEGIN}\n| device")
    assert text.endswith(f"{END}\n\nAsk Ada.")
    assert version_text(client, 1).startswith(f"Mine.\n\n{BEGIN}\n- **pi**: kept on ")


@pytest.mark.parametrize("text", ["", "Words.", f"{BEGIN} never ended", f"{END} first {BEGIN}"])
def test_a_section_without_both_markers_goes_to_the_end(text):
    made = with_section(text, "new")
    assert made.startswith(text)
    assert made.endswith(f"{BEGIN}\nnew\n{END}")
    assert with_section(made, "newer") == made.replace("\nnew\n", "\nnewer\n")


def test_a_text_that_would_be_too_long_stays():
    assert with_section("x" * 4990, "new") == "x" * 4990
