"""The pages of an open server: what they show, escape, load and accept."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import requests
from fastapi import FastAPI

from mlflow_compress.mlflow_plugin.pages.server import with_pages
from mlflow_compress.registry import history, promote, unquarantine
from mlflow_compress.registry.tags import from_tags, to_tags
from mlflow_compress.targets import AccuracyLimits, Target
from tests.pages.forms import Visitor, note_of
from tests.searched import NAME

NASTY = "</script><img src=x onerror=alert(1)>"


@pytest.fixture
def visitor(address):
    return Visitor(address)


def test_the_list_and_the_page_show_what_is_there(address, visitor):
    listed = requests.get(f"{address}/compress", timeout=60)
    assert f'<a href="/compress/models/{NAME}">{NAME}</a>' in listed.text
    assert "<dt>device</dt>" in listed.text
    page = visitor.get().text
    for text in (
        "device",
        "kiosk",
        "is the best of",
        "prune 0.5 · share 16",
        "at most 2 kB",
        "w1",
    ):
        assert text in page, text
    figures = json.loads(re.search(r'id="figures">(.*?)</script>', page)[1])
    traces = {trace["name"]: trace for trace in figures["front-figure"]["data"]}
    assert {"share", "prune", "prune + share", "front", "limits of device"} <= traces.keys()
    (link,) = traces["prune"]["customdata"]
    assert re.fullmatch(r"/#/experiments/\d+/runs/\w{32}\?workflowType=machine_learning", link)
    assert figures["layers-figure"]["data"]


def test_everything_comes_from_the_server_and_may_be_kept(address, visitor):
    page = visitor.get()
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert page.headers["cache-control"] == "no-store"
    loaded = re.findall(r'(?:src|href)="([^"]+\.(?:js|css))"', page.text)
    assert len(loaded) == 3
    for path in loaded:
        assert path.startswith("/compress/static/")
        asset = requests.get(f"{address}{path}", timeout=60)
        assert asset.status_code == 200
        assert "immutable" in asset.headers["cache-control"]
    assert requests.get(f"{address}/compress/", timeout=60).url == f"{address}/compress"
    assert requests.get(f"{address}/compress/static/../x", timeout=60).status_code == 404


def test_a_foreign_host_is_refused(address):
    answer = requests.get(f"{address}/compress", headers={"Host": "evil.example"}, timeout=60)
    assert answer.status_code == 403


def test_what_strangers_wrote_is_shown_as_text(client, visitor):
    version = client.get_model_version_by_alias(NAME, "device")
    variant = from_tags(version.tags, int(version.version))
    first, *others = variant.recipe.steps
    recipe = replace(variant.recipe, steps=(replace(first, technique=NASTY), *others))
    nasty = to_tags(replace(variant, recipe=recipe))
    # With its digest: a version that does not fit that is not shown at all.
    changed = ("compress.recipe_json", "compress.digest")
    for tag in changed:
        client.set_model_version_tag(NAME, version.version, tag, nasty[tag])
    experiment = client.get_experiment_by_name(NAME).experiment_id
    (decision,) = client.search_runs(
        [experiment], "tags.`compress.kind` = 'decision' AND tags.`compress.target` = 'device'"
    )
    client.set_tag(decision.info.run_id, "compress.reason", f"because {NASTY}")
    client.update_registered_model(NAME, NASTY)
    try:
        page = visitor.get().text
    finally:
        for tag in changed:
            client.set_model_version_tag(NAME, version.version, tag, version.tags[tag])
    assert NASTY not in page
    assert page.count("<script") == page.count("</script>") == 3
    assert "because &lt;/script&gt;&lt;img" in page
    assert "<img" not in page


@pytest.mark.parametrize("asked", ["x", "1" * 5000, "-1"])
def test_a_version_that_is_no_number_is_refused(visitor, asked):
    answer = visitor.get(f"?version={asked}")
    assert answer.status_code == 409
    assert note_of(answer).startswith("version must be a number")


def test_forms_of_others_are_refused(client, visitor):
    before = dict(client.get_registered_model(NAME).aliases)
    token = visitor.token()
    refused = [
        visitor.send("rollback", origin="http://evil.example", target="device"),
        visitor.send("rollback", origin="", target="device"),
        visitor.send("rollback", token="0" * 64, target="device"),
        Visitor(visitor.address).send("rollback", token=token, target="device"),
    ]
    assert [answer.status_code for answer in refused] == [403] * 4
    assert dict(client.get_registered_model(NAME).aliases) == before


def test_promoting_rolling_back_and_approving(client, visitor):
    best = int(client.get_registered_model(NAME).aliases["device"])
    done = visitor.send("promote", target="device")
    assert (done.status_code, note_of(done)) == (200, "Decided again.")
    assert int(client.get_registered_model(NAME).aliases["device"]) == best
    nothing = visitor.send("rollback", target="device")
    assert nothing.status_code == 409
    assert "no version before" in note_of(nothing)
    device = Target("device", accuracy=AccuracyLimits(max_drop=0.1))
    loose = replace(device, accuracy=AccuracyLimits(max_drop=0.2))
    client.set_model_version_tag(NAME, str(best), "compress.quarantine.device", "for this test")
    client.delete_registered_model_alias(NAME, "device")
    client.delete_registered_model_tag(NAME, "compress.promoted.device")
    promote(client, NAME, [loose])
    second = int(client.get_registered_model(NAME).aliases["device"])
    assert second != best
    client.delete_model_version_tag(NAME, str(best), "compress.quarantine.device")
    promote(client, NAME, [device])
    assert int(client.get_registered_model(NAME).aliases["device"]) == best
    done = visitor.send("rollback", target="device", why=f"slow {NASTY}")
    assert note_of(done).startswith("Rolled back")
    assert int(client.get_registered_model(NAME).aliases["device"]) == second
    assert NASTY not in done.text
    unquarantine(client, NAME, best, "device")
    promote(client, NAME, [device], require_approval=True)
    assert "waits for approval" in visitor.get().text
    done = visitor.send("approve", target="device")
    assert note_of(done) == "Approved and promoted."
    assert int(client.get_registered_model(NAME).aliases["device"]) == best


DECIDED = ("promoted", "kept", "none feasible", "pending")


def test_limits_that_were_written_into_a_decision_do_not_count(client, visitor):
    device = Target("device", accuracy=AccuracyLimits(max_drop=0.1))
    promote(client, NAME, [device])
    decided = [one for one in history(client, NAME, "device") if one.outcome in DECIDED]
    texts = {
        one.run_id: Path(client.download_artifacts(one.run_id, "decision.json")).read_text()
        for one in decided
    }
    run, good = next((run, text) for run, text in texts.items() if "limits" in json.loads(text))
    forged = json.loads(good)
    forged["limits"]["accuracy"]["max_drop"] = 0.9
    for text in (json.dumps(forged), "{}", "["):
        client.log_text(run, text, "decision.json")
        done = visitor.send("promote", target="device")
        assert done.status_code == 409
        assert "not known to be those that it was promoted by" in note_of(done)
    client.log_text(run, good, "decision.json")
    assert visitor.send("promote", target="device").status_code == 200
    client.delete_registered_model_tag(NAME, "compress.limits.device")
    assert visitor.send("promote", target="device").status_code == 409
    promote(client, NAME, [device])
    assert visitor.send("promote", target="device").status_code == 200


def test_only_known_profiles_and_targets_can_be_named(visitor):
    for target in ("/etc/passwd", "../../etc/x.yaml", "no-such-device", "latest"):
        assert visitor.send("promote", target=target).status_code == 409
    assert visitor.send("delete", target="device").status_code == 409


def test_a_model_without_variants_is_left_as_it_is(client, visitor):
    client.create_registered_model("plain")
    token = visitor.token()
    visitor.page = f"{visitor.address}/compress/models/plain"
    for action in ("promote", "rollback", "approve", "reject"):
        refused = visitor.send(action, token=token, target="server-cpu")
        assert refused.status_code == 404
        assert "no registered model 'plain' that holds variants" in note_of(refused)
    plain = client.get_registered_model("plain")
    assert (plain.tags, plain.aliases) == ({}, {})


def test_without_being_allowed_nothing_can_be_posted(monkeypatch):
    monkeypatch.delenv("MLFLOW_COMPRESS_ALLOW_PROMOTION", raising=False)
    routes = with_pages(FastAPI()).router.routes
    ours = [route for route in routes if route.path.startswith("/compress")]
    assert len(ours) == 4
    assert {method for route in ours for method in route.methods} == {"GET", "HEAD"}
