"""What lint cannot say of rules that have one home: names in MLflow, and the floor of each room."""

import ast
import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "mlflow_compress"
HOMES = {"tracking/names.py", "targets/profile.py"}  # the second counts the characters of one


def texts(path):
    """The string constants of a module, docstrings left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    plain = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in plain:
            yield node.value


def test_names_of_tags_stand_in_one_module():
    named = {
        f"{path.relative_to(PACKAGE)}: {text}"
        for path in PACKAGE.rglob("*.py")
        if str(path.relative_to(PACKAGE)) not in HOMES
        for text in texts(path)
        if re.match(r"`?compress\.[a-z_.]+`?$", text) and "." in text
    }
    assert named == set()


def test_every_room_is_on_the_page_of_the_house():
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert {room for room in rooms if f"`{room}`" not in page} == set()


def test_every_file_that_the_pages_for_developers_name_is_there():
    for page in (ROOT / "docs/architecture.md", ROOT / "CONTRIBUTING.md"):
        named = re.findall(
            r"`((?:[a-z_]+/)+[a-z_]+(?:\.py|\.md|\.sh|\.txt|/)?)", page.read_text("utf-8")
        )
        gone = [one for one in named if not (PACKAGE / one).exists() and not (ROOT / one).exists()]
        assert len(named) > 8 and gone == []


def test_what_benchmarks_and_examples_import_is_there():
    """They are seldom run, so that nobody would notice."""
    found = set()
    for folder in ("benchmarks", "examples"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                    "mlflow_compress"
                ):
                    found |= {(path.name, node.module, one.name) for one in node.names}
    assert len(found) > 50
    for path, module, name in sorted(found):
        if module.startswith("mlflow_compress_"):
            continue  # the example's own package
        home = importlib.import_module(module)
        if not hasattr(home, name):
            assert importlib.util.find_spec(f"{module}.{name}"), f"{path}: {module}.{name}"
