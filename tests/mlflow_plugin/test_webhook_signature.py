"""Which deliveries are MLflow's, and which configurations they matter to."""

import json

import pytest
import yaml

from mlflow_compress.errors import ConfigError
from mlflow_compress.mlflow_plugin.webhook.signature import RefusedError, Secret, check, sign
from mlflow_compress.mlflow_plugin.webhook.watched import concerned, load_watched

SECRET = Secret("0123456789abcdef")
NOW = 1_700_000_000.0
EVENT = {
    "entity": "model_version",
    "action": "created",
    "timestamp": "2026-11-24T08:15:02+00:00",
    "data": {"name": "lenet", "version": "1", "source": "models:/m-1", "tags": {}},
}


def headers(body, *, secret=SECRET, sent=NOW, delivery="d-1"):
    timestamp = str(sent) if isinstance(sent, str) else str(int(sent))
    return {
        "x-mlflow-delivery-id": delivery,
        "x-mlflow-timestamp": timestamp,
        "x-mlflow-signature": sign(secret, delivery, timestamp, body),
    }


def encoded(event):
    return json.dumps(event).encode()


def refused(given, body=None, now=NOW):
    with pytest.raises(RefusedError) as caught:
        check(SECRET, given, encoded(EVENT) if body is None else body, now)
    return caught.value.status, str(caught.value)


def test_a_signed_delivery_says_what_happened_to_which_model():
    found = check(SECRET, headers(encoded(EVENT)), encoded(EVENT), NOW)
    assert (found.id, found.sent) == ("d-1", NOW)
    assert (found.about, found.model) == ("model_version.created", "lenet")


def test_the_signature_is_mlflow_s_own():
    delivery = pytest.importorskip("mlflow.webhooks.delivery")
    theirs = delivery._generate_hmac_signature(SECRET.text, "d-1", "17", "{}")
    assert sign(SECRET, "d-1", "17", b"{}") == theirs


@pytest.mark.parametrize("part", ["x-mlflow-delivery-id", "x-mlflow-timestamp"])
def test_each_part_is_signed(part):
    given = headers(encoded(EVENT))
    status, said = refused(given | {part: given[part] + "1"})
    assert (status, said[:15]) == (401, "wrong signature")
    assert refused({k: v for k, v in given.items() if k != part})[0] == 401


def test_the_body_is_signed_to_the_last_byte():
    assert refused(headers(encoded(EVENT)), encoded(EVENT) + b" ")[0] == 401


def test_another_secret_or_none_is_refused():
    assert refused(headers(encoded(EVENT), secret=Secret("0123456789abcdeg")))[0] == 401
    given = headers(encoded(EVENT))
    assert "no secret" in refused(given | {"x-mlflow-signature": ""})[1]
    for wrong in ("v1,", "v1,é", given["x-mlflow-signature"][3:], "v2" + "0" * 44):
        assert refused(given | {"x-mlflow-signature": wrong})[0] == 401


@pytest.mark.parametrize("apart", [-301, 301, 3600])
def test_deliveries_of_another_time_are_refused(apart):
    status, said = refused(headers(encoded(EVENT)), now=NOW + apart)
    assert (status, said) == (401, f"sent {apart} s ago by the clock here, 300 s count")


@pytest.mark.parametrize("apart", [-300, 0, 300])
def test_clocks_need_not_agree_to_the_second(apart):
    assert check(SECRET, headers(encoded(EVENT)), encoded(EVENT), NOW + apart).model == "lenet"


@pytest.mark.parametrize("sent", ["nan", "-1", "1e9", "٣", "9" * 13])
def test_a_time_is_a_plain_number(sent):
    assert refused(headers(encoded(EVENT), sent=sent))[0] == 400


@pytest.mark.parametrize("delivery", ["", "a b", "x" * 129, "../d"])
def test_an_id_is_a_plain_word(delivery):
    assert refused(headers(encoded(EVENT), delivery=delivery))[0] == 400


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"\xff", b"{}", b"[" * 100_000, b'{"entity": "a", "action": "b"}']
)
def test_a_signed_body_that_is_no_event_is_refused(body):
    assert refused(headers(body), body)[0] == 400


@pytest.mark.parametrize("data", [None, [], {}, {"name": 3}])
def test_an_event_without_a_model_names_none(data):
    body = encoded(EVENT | {"data": data})
    assert check(SECRET, headers(body), body, NOW).model == ""


def test_secrets_come_from_one_place_and_are_never_shown(tmp_path, monkeypatch):
    path = tmp_path / "secret"
    path.write_text("0123456789abcdef\n")
    monkeypatch.setenv("HOOK", "fedcba9876543210")
    from_file, from_variable = Secret.read(None, path), Secret.read("HOOK", None)
    assert (from_file.text, from_variable.text) == ("0123456789abcdef", "fedcba9876543210")
    assert "0123" not in f"{from_file} {from_file!r}"
    assert "fedc" not in f"{from_variable} {from_variable!r}"


def test_a_secret_that_is_none_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("SHORT", "hunter2")
    monkeypatch.delenv("ABSENT", raising=False)
    cases = [
        ((None, None), "--secret-env NAME or with --secret-file"),
        (("SHORT", tmp_path / "x"), "--secret-env NAME or with --secret-file"),
        (("SHORT", None), "environment variable SHORT .* 16 characters or more, got 7"),
        (("ABSENT", None), "environment variable ABSENT .* got 0"),
        ((None, tmp_path / "x"), "secret file .*x: No such file"),
    ]
    for given, said in cases:
        with pytest.raises(ConfigError, match=said) as caught:
            Secret.read(*given)
        assert "hunter2" not in str(caught.value)


@pytest.fixture
def write(tmp_path):
    def config(name, source, **more):
        path = tmp_path / f"{name}.yaml"
        text = {"source": source, "data": {"evaluation": "rows.npz"}, "recipe": ["prune"], **more}
        path.write_text(yaml.safe_dump(text))
        return path

    return config


@pytest.mark.parametrize("version", ["@champion", "/latest", "/3"])
def test_configurations_watch_their_source(write, version):
    (one,) = load_watched([write("a", f"models:/lenet{version}")])
    assert (one.model, one.makes) == ("lenet", "lenet-edge")
    for about in ("model_version.created", "model_version_alias.created"):
        assert concerned([one], about, "lenet") == [one]
        assert concerned([one], about, "lenet-edge") == []
        assert concerned([one], about, "") == []
    for about in ("model_version_tag.set", "model_version_alias.deleted", "prompt.created"):
        assert concerned([one], about, "lenet") == []


def test_several_configurations_may_have_one_source(write):
    paths = [write("a", "models:/lenet@a"), write("b", "models:/lenet@b", register_as="other")]
    watched = load_watched([*paths, paths[0]])
    assert [one.path.name for one in watched] == ["a.yaml", "b.yaml"]
    assert len({one.key for one in watched}) == 2
    assert concerned(watched, "model_version.created", "lenet") == list(watched)


@pytest.mark.parametrize("source", ["tiny.onnx", "runs:/1234/model", "models:/m-0123abcd"])
def test_a_source_that_no_event_tells_of_is_refused(write, source):
    with pytest.raises(ConfigError, match=r"must be models:/name@alias, .* tells of no other"):
        load_watched([write("a", source)])


def test_a_configuration_that_would_start_itself_is_refused(write):
    with pytest.raises(ConfigError, match="start itself for ever: name another register_as"):
        load_watched([write("a", "models:/lenet/latest", register_as="lenet")])


def test_configurations_that_would_start_each_other_are_refused(write):
    ring = [
        write("a", "models:/one/latest", register_as="two"),
        write("b", "models:/two/latest", register_as="three"),
        write("c", "models:/three/latest", register_as="one"),
    ]
    chain = load_watched(ring[:2])
    assert [one.makes for one in chain] == ["two", "three"]
    with pytest.raises(ConfigError, match="start itself for ever"):
        load_watched(ring)


def test_a_webhook_of_somebody_else_is_not_changed():
    from types import SimpleNamespace

    from mlflow.store.entities.paged_list import PagedList

    from mlflow_compress.mlflow_plugin.webhook.registration import register

    theirs = SimpleNamespace(name="hook", webhook_id="1", description="posts to chat", url="x")
    client = SimpleNamespace(list_webhooks=lambda *_: PagedList([theirs], None))
    with pytest.raises(ConfigError, match="'hook' is there already, and not made by this command"):
        register(client, "hook", "https://example.com/webhook", SECRET)


def test_mlflow_s_refusals_come_with_the_setting_that_lifts_them(monkeypatch):
    from mlflow.exceptions import MlflowException
    from mlflow.utils.validation import _validate_webhook_url

    from mlflow_compress.mlflow_plugin.webhook.registration import _advice

    for name in ("ALLOWED_SCHEMES", "ALLOW_PRIVATE_IPS"):
        monkeypatch.delenv(f"MLFLOW_WEBHOOK_{name}", raising=False)
    cases = {
        "http://127.0.0.1/": "MLFLOW_WEBHOOK_ALLOWED_SCHEMES=http,https",
        "https://127.0.0.1/": "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS=true",
    }
    for url, setting in cases.items():
        with pytest.raises(MlflowException) as refused:
            _validate_webhook_url(url)
        assert setting in _advice(str(refused.value))
    assert _advice("something else") == ""
