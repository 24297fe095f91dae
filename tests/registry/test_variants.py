import json
import logging
import threading

import mlflow
import pytest
from mlflow import MlflowClient

from mlflow_compress.errors import CompressError
from mlflow_compress.registry import read_state, read_variants, register_variants
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
    assert first == ("50.0x smaller (20 kB), accuracy 0.9450 (drop 0.50 points), prune 0.9")
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
