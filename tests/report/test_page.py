"""The HTML report holds everything itself, escapes what it is given, and draws in a browser."""

import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from mlflow_compress.records import Recipe, Step
from mlflow_compress.report.page import DecisionLine, html_report
from tests.packed.portable_web import chromium
from tests.report.test_tables import FAILED, trial

NASTY = "</script><script>document.title='owned'</script>"
DECISION = DecisionLine("rpi4", "promoted", 3, None, 1_700_000_000_000, f"smallest {NASTY}")

EFFECTS = [
    {"layer": f"fc1 {NASTY}", "technique": "prune", "level": 0.9, "bytes": 9000, "kl": 0.25},
    {"layer": "fc1", "technique": "", "level": None, "bytes": 90000, "kl": None},
]


class Structure(HTMLParser):
    """What a page loads, and the text of its cells."""

    def __init__(self):
        super().__init__()
        self.loads, self.cells, self.inside = [], [], False

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.loads += [found[key] for key in ("src", "href", "srcset") if key in found]
        self.inside = tag in ("td", "th")

    def handle_data(self, data):
        if self.inside:
            self.cells.append(data.strip())


@pytest.fixture(scope="module")
def page():
    trials = [
        trial(0, 10.0),
        trial(1, 40.0, 0.02, steps=(Step("prune", {"sparsity": 0.9}),)),
        replace(trial(2, 5.0), recipe=Recipe((Step(NASTY, {}),))),
        FAILED,
    ]
    return html_report(
        trials,
        title=f"lenet {NASTY}",
        source="models:/lenet/1",
        on_front={"k0", "k1"},
        failed=[("share 4", "ran out of memory")],
        decisions=[DECISION],
        sensitivity=EFFECTS,
    )


def test_it_loads_nothing(page):
    structure = Structure()
    structure.feed(page)
    assert structure.loads == ["#front"]


def test_everything_is_in_the_tables(page):
    structure = Structure()
    structure.feed(page)
    expected = ("share 16", "40.0x", "25.0 kB", "promoted", "v3", "fc1.weight", "300x784", "source")
    for cell in (
        *expected,
        "2023-11-14 22:13 UTC",
        "ran out of memory",
        "step 1 'prune': no",
        "0.25",
    ):
        assert cell in structure.cells, cell


def test_what_it_is_given_cannot_become_code(page):
    assert NASTY not in page
    assert page.count("<script") == page.count("</script>") == 3


def test_nothing_that_ran_is_a_report_too():
    page = html_report([FAILED], title="t", source="s")
    assert "size unknown" in page
    assert "step 1 &#39;prune&#39;: no" in page


def test_a_browser_draws_both_figures(page, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=8000"]
    command = [chromium(), *options, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    done = subprocess.run(
        [*command, path.as_uri()], capture_output=True, text=True, check=True, timeout=120
    )
    assert shutil.which("chromium")
    assert "<title>lenet &lt;/script&gt;" in done.stdout
    assert len(re.findall(r'class="main-svg"', done.stdout)) >= 3
    assert "Uncaught" not in done.stderr
