"""What packages register is found in one place, and what is wrong with it is one line."""

from importlib.metadata import EntryPoint

import pytest

from mlflow_compress.base import plugins
from mlflow_compress.base.plugins import Group
from mlflow_compress.errors import ConfigError, DataError
from mlflow_compress.search import get_strategy

GROUP = Group("acme.wheels", "wheel")


@pytest.fixture
def installed(monkeypatch):
    def install(**values):
        points = {
            name: [EntryPoint(name, one, GROUP.name) for one in value.split()]
            for name, value in values.items()
        }
        monkeypatch.setattr(plugins, "_points", lambda group: points)

    return install


def test_what_is_registered_is_loaded(installed):
    installed(round="math:pi", square="math:e")
    assert GROUP.names() == ("round", "square") and "round" in GROUP
    assert GROUP.load("round") == pytest.approx(3.14159265)


def test_a_misspelt_name(installed):
    installed(round="math:pi", square="math:e")
    with pytest.raises(
        ConfigError,
        match=r"wheel 'rund' does not exist \(did you mean 'round'\?\); installed: round, square",
    ):
        GROUP.load("rund")


def test_nothing_is_installed(installed):
    installed()
    with pytest.raises(ConfigError, match=r"installed: none \(is mlflow-compress installed\?\)"):
        GROUP.load("round")


@pytest.mark.parametrize(
    ("value", "error"),
    [("math:tau_and_more", "AttributeError"), ("tests.base.broken_wheel:round", "ValueError")],
)
def test_a_module_that_does_not_work(installed, value, error):
    installed(round=value)
    with pytest.raises(DataError, match=rf"wheel 'round' \({value}\) failed with {error}"):
        GROUP.load("round")


def test_a_package_that_is_missing_is_named(installed):
    installed(round="no_such_package_here:round")
    with pytest.raises(ModuleNotFoundError, match="no_such_package_here"):
        GROUP.load("round")


def test_the_package_that_brings_something():
    assert (
        Group("mlflow_compress.techniques", "technique")
        .provider("prune")
        .startswith("mlflow-compress ")
    )


def test_a_strategy_that_is_misspelt():
    with pytest.raises(ConfigError, match=r"search\.strategy 'gird' does not exist .*'grid'"):
        get_strategy("gird")


def test_two_packages_that_bring_one_name(installed):
    installed(round="math:pi math:e", square="math:e math:e")
    with pytest.raises(ConfigError, match="wheel 'round' is brought by math:pi and by math:e: un"):
        GROUP.load("round")
    assert GROUP.load("square") == pytest.approx(2.718281828)
