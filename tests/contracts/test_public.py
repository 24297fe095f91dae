"""What authors of plugins build on is there under the names that docs/extending.md promises."""

import ast
import importlib
import re
import sys
from pathlib import Path

import pytest

from mlflow_compress import packed

ROOT = Path(__file__).parents[2]
PROMISED = {
    "mlflow_compress.errors",
    "mlflow_compress.measure.metrics",
    "mlflow_compress.measure.outputs",
    "mlflow_compress.records",
    "mlflow_compress.search",
    "mlflow_compress.targets",
    "mlflow_compress.techniques",
    "mlflow_compress.techniques.graph",
    "mlflow_compress.techniques.training",
    "mlflow_compress.testing",
    "mlflow_compress.testing.models",
    "mlflow_compress.testing.strategy",
}
EARLIER = {
    "onnx_graph": ("float_weights", "initializers", "unique_name", "Weight"),
    "onnx_layers": ("LinearLayer", "linear_layers"),
    "onnx_run": ("batches", "check_calibration", "run", "session"),
    "onnx_integers": ("Integers", "write_integers"),
    "onnx_weight_only": ("channel_axis",),
    "torch_interpreter": ("Interpreter", "check_interpreter", "GraphConv"),
    "torch_export": ("export_torch", "quiet_export"),
    "torch_windows": ("padding",),
    "train_data": ("Epoch", "TrainData", "Training"),
}
"""What plugins of version 0.1 imported, by module of mlflow_compress.techniques."""


def imports(folder):
    """The modules of this package that a plugin's files import, each with a name from it."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                "mlflow_compress."
            ):
                for name in node.names:
                    yield path.name, node.module, name.name
            elif isinstance(node, ast.Import):
                assert not any(one.name.startswith("mlflow_compress.") for one in node.names), path


@pytest.mark.parametrize("folder", ["plugins", "examples/plugin_template"])
def test_plugins_import_what_is_promised_and_nothing_else(folder):
    found = list(imports(ROOT / folder))
    assert found
    for path, module, name in found:
        assert module in PROMISED, f"{path} imports {name} of {module}"
        assert name in importlib.import_module(module).__all__, f"{path}: {module}.{name}"


def test_every_module_and_name_that_the_page_names_is_there():
    page = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
    named = sorted(set(re.findall(r"`(mlflow_compress(?:\.[A-Za-z_]+)+)", page)))
    groups = {"mlflow_compress.executors", "mlflow_compress.metrics", "mlflow_compress.strategies"}
    assert len(named) > 10
    for dotted in set(named) - groups:
        module, _, name = dotted.rpartition(".")
        try:
            importlib.import_module(dotted)
        except ModuleNotFoundError:
            assert hasattr(importlib.import_module(module), name), dotted


@pytest.mark.parametrize("module", EARLIER)
def test_names_of_before_still_import_and_warn(module):
    sys.modules.pop(f"mlflow_compress.techniques.{module}", None)
    with pytest.warns(DeprecationWarning, match=rf"techniques\.{module} is mlflow_compress\."):
        found = importlib.import_module(f"mlflow_compress.techniques.{module}")
    for name in EARLIER[module]:
        assert getattr(found, name)


def test_nothing_of_this_package_uses_the_names_of_before():
    for path in (ROOT / "mlflow_compress").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                assert node.module.removeprefix("mlflow_compress.techniques.") not in EARLIER, path


@pytest.mark.parametrize("name", ["arrays", "backends", "choose", "container", "portable_read"])
def test_modules_of_the_format_under_their_names_of_before(name):
    with pytest.warns(DeprecationWarning, match=rf"packed\.{name} is mlflow_compress\.packed\."):
        assert getattr(packed, name).__name__.startswith("mlflow_compress.packed.")


def test_names_of_the_portable_module_of_before():
    from mlflow_compress.packed import portable

    assert portable.pack_model.__module__.endswith("portable.write")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = portable.nothing
