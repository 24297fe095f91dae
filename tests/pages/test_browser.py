"""What a person sees, in Chromium: this project's pages, and MLflow's own UI on the same store.

MLflow's UI takes Chromium most of a minute to walk through: ``make browser`` does.
"""

import os
import re

import pytest

from tests.pages.driving import browser
from tests.searched import NAME

MODE = "?workflowType=machine_learning"
everything = pytest.mark.skipif(
    os.environ.get("MLFLOW_COMPRESS_BROWSER") != "1", reason="part of make browser"
)


@pytest.fixture(scope="module")
def tab():
    with browser() as opened:
        yield opened


def test_the_page_of_a_model(address, tab):
    watched = tab(color_scheme="dark")
    page = watched.open(f"{address}/compress/models/{NAME}", "#front-figure .main-svg")
    page.wait_for_selector("#layers-figure .main-svg")
    assert page.locator("#front-figure .point").count() == 3
    assert {url.split("/")[2] for url in watched.loaded if "://" in url} == {address[7:]}
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    # on the uppermost layer, where plotly listens
    page.locator("#front-figure .point").first.dispatch_event("click")
    box = page.locator("#front-figure .point").first.bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_url(re.compile(r"/#/experiments/\d+/runs/\w{32}\?workflowType=machine_learning"))


@everything
def test_the_pages_on_a_phone_and_their_forms(address, tab):
    watched = tab(viewport={"width": 390, "height": 844})
    page = watched.open(f"{address}/compress", "article a")
    page.click(f"text={NAME}")
    page.wait_for_selector("#front-figure .main-svg")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.click("button[aria-label='Decide again: device']")
    page.wait_for_selector("[role=status]")
    assert "Decided again." in watched.text()
    assert watched.problems == []


@pytest.fixture
def runs(client):
    """Return a function that gives the run of a kind, newest first."""
    experiment = client.get_experiment_by_name(NAME).experiment_id

    def find(kind):
        found = client.search_runs([experiment], f"tags.`compress.kind` = '{kind}'")
        return f"experiments/{experiment}/runs/{found[0].info.run_id}", found[0].info.run_name

    return find


@everything
def test_the_run_of_a_search_in_mlflow(address, tab, runs):
    path, _ = runs("search")
    watched = tab()
    watched.open(f"{address}/#/{path}{MODE}", "text=Child runs")
    page = watched.page
    page.wait_for_selector("table:has-text('drop, points')")
    told = watched.text()
    for text in ("rows (", "compressed, strategy", "share 16 ·"):
        assert text in told, text
    for folder, file in (("pareto", "pareto.html"), ("layers", "layers.html")):
        watched.open(f"{address}/#/{path}/artifacts/{folder}/{file}{MODE}", "iframe")
        page.frame_locator("iframe").first.locator(".main-svg").first.wait_for()


@everything
def test_the_run_of_a_trial_in_mlflow(address, tab, runs):
    path, name = runs("trial")
    watched = tab()
    watched.open(f"{address}/#/{path}{MODE}", f"text={name}")
    assert re.fullmatch(r"(prune [\d.]+|share 16)( · share 16)? · [\d.]+x", name)
    watched.page.wait_for_selector("table:has-text('bits/weight')")


@everything
def test_the_models_tab_in_mlflow(address, tab, runs):
    path, _ = runs("search")
    watched = tab(viewport={"width": 2600, "height": 900})
    watched.open(f"{address}/#/{path.partition('/runs')[0]}/models{MODE}", "text=prune 0,9")
    told = watched.text()
    assert "rows (" in told
    assert "accuracy" in told


@everything
def test_the_registered_model_and_its_version_in_mlflow(address, tab, client):
    watched = tab()
    watched.open(f"{address}/#/models/{NAME}{MODE}", "text=Versions")
    watched.page.wait_for_selector("table:has-text('kiosk')")
    version = client.get_model_version_by_alias(NAME, "kiosk").version
    watched.open(f"{address}/#/models/{NAME}/versions/{version}{MODE}", "text=compress.rate")
    told = watched.text()
    for text in ("kiosk: promoted on", "is the best of", "compress.accuracy", "smaller ("):
        assert text in told, text
    assert "compress:begin" not in told
