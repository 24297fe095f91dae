import json
import logging
import random
import threading
from dataclasses import replace

import mlflow
import pytest
from mlflow import MlflowClient

from mlflow_compress.errors import CompressError
from mlflow_compress.records import Interval, Latency
from mlflow_compress.registry import promote, read_state, read_variants, register_variants
from mlflow_compress.registry.tags import describe, from_tags, to_tags
from mlflow_compress.targets import AccuracyLimits, Limits, Target

NAME = "lenet-edge"
TINY = Target("tiny", Limits(size_bytes=5_000), AccuracyLimits(max_drop=0.01))


@pytest.fixture
def variants(make_variant, log_variant):
    return [
        log_variant(make_variant("a", size=40_000)),
        log_variant(make_variant("b", size=20_000, accuracy=0.945)),
    ]


def versions(client):
    found = client.search_model_versions(f"name = '{NAME}'")
    return sorted(int(one.version) for one in found)


def test_tags_survive_the_way_there_and_back(make_variant):
    variant = make_variant(version=7, memory_bytes=10**6)
    assert from_tags(to_tags(variant), 7) == variant


def test_registering_twice_makes_one_version_each(client, variants):
    first = register_variants(client, NAME, variants)
    again = register_variants(client, NAME, variants)
    assert [one.version for one in first] == [1, 2]
    assert first == again
    assert versions(client) == [1, 2]
    assert read_variants(client, NAME) == first


def test_the_numbers_are_in_the_tags(client, variants):
    register_variants(client, NAME, variants)
    version = client.get_model_version(NAME, "2")
    tags = version.tags
    assert tags["compress.rate"] == "50"
    assert tags["compress.size_bytes"] == "20000"
    assert tags["compress.accuracy"] == "0.945"
    assert tags["compress.accuracy_drop"] == "0.005"
    assert tags["compress.accuracy_drop_high"] == "0.01"
    assert tags["compress.recipe"] == "prune 0.9"
    assert tags["compress.source"] == "models:/lenet/1"
    assert tags["compress.sha256"] == "cd" * 32
    assert json.loads(tags["compress.recipe_json"])["steps"][0]["technique"] == "prune"
    assert "layers" not in tags or not json.loads(tags["compress.report"])["layers"]
    assert version.source == variants[1].model_uri
    assert version.run_id == variants[1].run_id


def test_the_description_begins_with_plain_text(client, variants):
    register_variants(client, NAME, variants)
    first = client.get_model_version(NAME, "2").description.splitlines()[0]
    assert first == ("50.0x smaller (20 kB), accuracy 94.50 % (drop 0.50 points), prune 0.9")
    assert len(describe(variants[0])) < 5000


def test_the_logged_model_knows_its_version(client, variants):
    register_variants(client, NAME, variants)
    register_variants(client, NAME, variants)
    model_id = variants[0].model_uri.rpartition("/")[2]
    links = json.loads(client.get_logged_model(model_id).tags["mlflow.modelVersions"])
    assert links == [{"name": NAME, "version": 1}]


def test_a_variant_that_was_not_logged_is_refused_before_anything_is_made(client, make_variant):
    with pytest.raises(CompressError, match=r"'prune 0\.9' has no logged model"):
        register_variants(client, NAME, [make_variant()])
    assert not read_state(client, NAME).exists


def test_an_edited_tag_is_reported_and_the_version_left_out(client, variants, caplog):
    register_variants(client, NAME, variants)
    client.set_model_version_tag(NAME, "2", "compress.accuracy", "0.999")
    with caplog.at_level(logging.WARNING):
        found = read_variants(client, NAME)
    assert [one.version for one in found] == [1]
    problem = (
        "lenet-edge version 2 is left out: tag compress.accuracy says 0.999, "
        "the stored report says 0.945"
    )
    assert caplog.messages == [problem]
    assert read_state(client, NAME).problems == (problem,)
    # Registering again neither repairs it silently nor makes a second version of it.
    register_variants(client, NAME, variants)
    assert versions(client) == [1, 2]
    assert client.get_model_version(NAME, "2").tags["compress.accuracy"] == "0.999"


@pytest.mark.parametrize(
    ("tag", "value", "problem"),
    [
        ("compress.report", "{", "its recipe or report cannot be read"),
        ("compress.report", "[]", "its recipe or report cannot be read: Report must be a mapping"),
        ("compress.recipe_json", '{"steps": 3}', "Recipe.steps does not fit"),
        ("compress.recipe_json", "", "tag compress.recipe_json is missing"),
    ],
)
def test_a_broken_tag_is_reported(client, variants, tag, value, problem):
    register_variants(client, NAME, variants)
    client.set_model_version_tag(NAME, "1", tag, value)
    state = read_state(client, NAME)
    assert [one.version for one in state.variants] == [2]
    assert problem in state.problems[0]


def test_versions_of_others_are_no_business_of_ours(client, variants):
    client.create_registered_model(NAME)
    client.create_model_version(NAME, "somewhere")
    registered = register_variants(client, NAME, variants)
    assert [one.version for one in registered] == [2, 3]
    state = read_state(client, NAME)
    assert (len(state.variants), state.problems) == (2, ())


def test_the_gap_of_the_closest_is_tagged(client, variants, make_variant, log_variant):
    register_variants(client, NAME, variants, targets=[TINY])
    gap = "compress.gap.tiny"
    assert gap not in client.get_model_version(NAME, "1").tags
    text = client.get_model_version(NAME, "2").tags[gap]
    assert text == "size: 20 kB is more than 5 kB"
    small = log_variant(make_variant("c", size=4_000))
    register_variants(client, NAME, [*variants, small], targets=[TINY])
    assert all(gap not in client.get_model_version(NAME, str(n)).tags for n in versions(client))


def test_the_global_tracking_uri_stays_as_it_was(store_uri, client, variants, tmp_path):
    other = f"sqlite:///{tmp_path}/other.db"
    mlflow.set_tracking_uri(other)
    register_variants(client, NAME, variants)
    assert mlflow.get_tracking_uri() == other


def test_jobs_that_register_at_once_leave_one_version_each(store_uri, client, variants):
    mlflow.set_tracking_uri(store_uri)
    results, errors = [], []
    start = threading.Barrier(4)

    def job():
        start.wait()
        try:
            results.append(register_variants(MlflowClient(store_uri), NAME, variants))
        except Exception as error:  # noqa: BLE001 - asserted on below
            errors.append(error)

    threads = [threading.Thread(target=job) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    register_variants(client, NAME, variants)
    keys = [one.tags["compress.key"] for one in client.search_model_versions(f"name = '{NAME}'")]
    assert sorted(keys) == ["a", "b"]
    assert {tuple(one.version for one in result) for result in results} == {
        tuple(one.version for one in register_variants(client, NAME, variants))
    }


ANEW = "delete the version and run the job again, which registers the variant anew"
ANY = (
    "one of the tags compress.key, compress.recipe_json, compress.model_uri, compress.run_id, "
    f"compress.source, compress.report or compress.digest was edited; put it back, or {ANEW}"
)


@pytest.mark.parametrize(
    ("tag", "old", "new", "problem"),
    [
        (
            "source",
            "lenet/1",
            "lenet/99",
            f"tag compress.source was edited; put it back, or {ANEW}",
        ),
        (
            "report",
            '"p95": 2.0',
            '"p95": 0.1',
            f"tag compress.report was edited; put it back, or {ANEW}",
        ),
        ("recipe_json", "compact", "portable", ANY),
        ("key", "a", "z", ANY),
        ("key", "a", "b", ANY),
        ("model_uri", "models:", "s3:", ANY),
        ("digest", ",", ".", ANY),
    ],
)
def test_a_hand_on_what_decides_is_noticed(client, variants, tag, old, new, problem):
    register_variants(client, NAME, variants)
    tag = f"compress.{tag}"
    before = client.get_model_version(NAME, "1").tags[tag]
    edited = before.replace(old, new)
    assert edited != before
    client.set_model_version_tag(NAME, "1", tag, edited)
    state = read_state(client, NAME)
    assert state.problems == (f"lenet-edge version 1 is left out: {problem}",)
    assert [one.version for one in state.variants] == [2]
    # Putting it back is enough.
    client.set_model_version_tag(NAME, "1", tag, before)
    assert read_state(client, NAME).problems == ()


@pytest.mark.parametrize("tag", ["compress.digest", "compress.key"])
def test_what_decides_and_is_gone_is_noticed(client, variants, tag):
    register_variants(client, NAME, variants)
    client.delete_model_version_tag(NAME, "1", tag)
    (problem,) = read_state(client, NAME).problems
    assert problem.startswith(f"lenet-edge version 1 is left out: tag {tag} is missing")


def test_what_the_problem_says_to_do_helps(client, variants):
    register_variants(client, NAME, variants)
    client.set_model_version_tag(NAME, "1", "compress.source", "models:/lenet/99")
    client.delete_model_version(NAME, "1")
    register_variants(client, NAME, variants)
    state = read_state(client, NAME)
    assert [one.version for one in state.variants] == [2, 3]
    assert state.problems == ()


def test_a_key_edited_to_another_variants_takes_no_version_away(client, variants):
    register_variants(client, NAME, variants)
    client.set_model_version_tag(NAME, "2", "compress.key", "a")
    assert [one.version for one in register_variants(client, NAME, variants)] == [1, 3]
    assert versions(client) == [1, 2, 3]


def test_a_second_version_of_a_variant_is_reported_as_one(client, variants):
    register_variants(client, NAME, variants)
    tags = client.get_model_version(NAME, "1").tags
    client.create_model_version(NAME, variants[0].model_uri, tags=tags)
    client.set_registered_model_alias(NAME, "tiny", "3")
    (problem,) = read_state(client, NAME).problems
    assert problem == (
        "lenet-edge version 3 is left out: it is the same variant as version 1; "
        "move what uses it there and delete it"
    )
    (decision,) = promote(client, NAME, [replace(TINY, limits=Limits())], take_over=True)
    assert decision.reason.endswith(problem)
    # Registering takes the younger one away, but not what an alias is on.
    client.set_registered_model_alias(NAME, "tiny", "3")
    register_variants(client, NAME, variants)
    assert versions(client) == [1, 2, 3]
    for alias in ("tiny", "tiny-previous"):
        client.delete_registered_model_alias(NAME, alias)
    register_variants(client, NAME, variants)
    assert versions(client) == [1, 2]


def measured(variant, *devices, source="models:/lenet/1"):
    """Return the variant with a latency from each device, and another source."""
    more = tuple(
        Latency(device, 1, 1, 1.0, 2.0, 1.0, 1.0, Interval(0.9, 1.1)) for device in devices
    )
    report = replace(variant.report, latency=(*variant.report.latency, *more), memory_bytes=10**6)
    return replace(variant, report=report, source=source)


def test_what_is_added_later_is_read_back(client, variants):
    register_variants(client, NAME, variants)
    for number, device in enumerate(("ssh://pi", "ssh://car"), start=2):
        more = measured(variants[0], device, source=f"models:/lenet/{number}")
        register_variants(client, NAME, [more])
    state = read_state(client, NAME)
    assert state.problems == ()
    known = state.variant(1)
    assert known.source == "models:/lenet/3"
    assert [one.device for one in known.report.latency] == ["local", "ssh://pi", "ssh://car"]
    # What is added is under the same eyes as what was there.
    report = client.get_model_version(NAME, "1").tags["compress.report"]
    client.set_model_version_tag(
        NAME, "1", "compress.report", report.replace("ssh://car", "ssh://bus")
    )
    assert "tag compress.report was edited" in read_state(client, NAME).problems[0]


def stepwise(client, monkeypatch, job):
    """Run a job and return its writes of tags, not done."""
    writes = []
    with monkeypatch.context() as patch:
        patch.setattr(client, "set_model_version_tag", lambda *args: writes.append(args))
        job()
    return writes


def test_a_version_is_readable_after_every_write_of_a_job(client, variants, monkeypatch):
    register_variants(client, NAME, variants)
    more = measured(variants[0], "ssh://pi", source="models:/lenet/2")
    writes = stepwise(client, monkeypatch, lambda: register_variants(client, NAME, [more]))
    # The source, the report, the memory that is shown, and a digest of each.
    assert len(writes) == 6
    for write in writes:
        client.set_model_version_tag(*write)
        assert read_state(client, NAME).problems == ()
    assert read_state(client, NAME).variant(1) == replace(more, version=1)


def test_a_job_that_was_broken_off_anywhere_is_made_up_for(client, variants, monkeypatch):
    for number, base in enumerate(variants, start=1):
        register_variants(client, NAME, variants)
        more = measured(base, "ssh://pi", source="models:/lenet/2")
        writes = stepwise(client, monkeypatch, lambda m=more: register_variants(client, NAME, [m]))
        for write in writes[: 2 * number]:
            client.set_model_version_tag(*write)
        register_variants(client, NAME, [more])
        assert read_state(client, NAME).variant(number) == replace(more, version=number)


@pytest.mark.parametrize("seed", range(5))
def test_a_version_is_readable_after_every_write_of_jobs_at_once(
    client, variants, monkeypatch, seed
):
    bare = [replace(one, report=replace(one.report, latency=())) for one in variants]
    register_variants(client, NAME, bare)
    first = measured(bare[0], "ssh://pi", source="models:/lenet/2")
    second = measured(bare[0], "ssh://car", source="models:/lenet/3")
    (slow,) = second.report.latency
    later = replace(second.report, latency=(replace(slow, p50=7.0, p95=8.0),))
    second = replace(second, report=later)
    queues = [
        stepwise(client, monkeypatch, lambda m=more: register_variants(client, NAME, [m]))
        for more in (first, second)
    ]
    dice = random.Random(seed)
    while any(queues):
        client.set_model_version_tag(*dice.choice([q for q in queues if q]).pop(0))
        assert read_state(client, NAME).problems == ()
    register_variants(client, NAME, [first, second])
    known = read_state(client, NAME).variant(1)
    assert known.source == "models:/lenet/3"
    assert {one.device for one in known.report.latency} == {"ssh://pi", "ssh://car"}
    shown = client.get_model_version(NAME, "1").tags["compress.latency_p50_ms"]
    assert float(shown) == known.report.latency[0].p50
    # The other job's number passes, a hand's does not.
    client.set_model_version_tag(NAME, "1", "compress.latency_p50_ms", "0.5")
    assert "compress.latency_p50_ms says 0.5" in read_state(client, NAME).problems[0]
