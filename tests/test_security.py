"""Each promise of docs/security.md names a test that is there, and code is loaded where it says."""

import ast
import re
from pathlib import Path

import pytest

import mlflow_compress

ROOT = Path(__file__).parent.parent
CODE = sorted(Path(mlflow_compress.__path__[0]).rglob("*.py"))


def promises():
    text = (ROOT / "docs/security.md").read_text(encoding="utf-8")
    _, _, rest = text.partition("## The promises")
    promised, _, _ = rest.partition("## What is not promised")
    return [one for one in re.split(r"\n\n(?=\*\*)", promised.strip()) if one]


@pytest.mark.parametrize("promise", promises(), ids=lambda text: text[:40])
def test_each_promise_names_a_test_that_is_there(promise):
    files = re.split(r"`(?=tests/)", promise.rpartition("\n*`")[2].join(("`", "")))
    named = 0
    for part in files:
        found = re.match(r"(tests/[\w/]+\.py)`", part)
        if found is None:
            continue
        there = (ROOT / found.group(1)).read_text(encoding="utf-8")
        tests = re.findall(r"`(test_\w+)`", part)
        named += len(tests) or there.count("\ndef test_")
        for test in tests:
            assert f"def {test}(" in there, f"{found.group(1)} has no {test}"
    assert named, promise


def calls(path):
    """Yield (name as it is written, keywords) of every call."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {one.arg: ast.unparse(one.value) for one in node.keywords}


def test_nothing_loads_pickles_of_torch():
    found = 0
    for path in CODE:
        for name, options in calls(path):
            if name == "torch.load":
                found += 1
                assert options.get("weights_only") == "True", path
    assert found


def test_pickles_are_read_by_workers_of_a_search_alone():
    readers = {"pickle.load", "pickle.loads", "cloudpickle.load", "cloudpickle.loads"}
    reading = {path.name for path in CODE for name, _ in calls(path) if name in readers}
    assert reading == {"worker.py"}
    for path in CODE:
        for name, options in calls(path):
            if name in ("np.load", "numpy.load"):
                assert options.get("allow_pickle") == "False", path
