"""The contract of a target."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from mlflow_compress.records import Recipe, Report, Variant
from mlflow_compress.registry.policy import decide
from mlflow_compress.targets import Target, load_target, shipped_names, target_data

__all__ = ["TargetContract"]


class TargetContract:
    """Every target passes these cases.

    A subclass says which target, with one fixture::

        class TestKiosk(TargetContract):
            @pytest.fixture
            def target(self):
                return KIOSK  # a mapping, or the path of a YAML file

    Attributes:
        name: the name under which the target is installed, or empty.
    """

    name: ClassVar[str] = ""

    @pytest.fixture
    def target(self) -> str | Mapping[str, Any]:
        """What :func:`load_target` takes; the one fixture that a subclass must give."""
        raise NotImplementedError("give a fixture `target`")

    @pytest.fixture
    def loaded(self, target: str | Mapping[str, Any]) -> Target:
        """The target."""
        return load_target(target)

    def test_it_is_found_by_its_name(self, loaded: Target) -> None:
        """The entry point leads to what makes it."""
        if self.name:
            assert self.name in shipped_names()
            assert load_target(self.name) == loaded
            assert loaded.name == self.name

    def test_it_comes_back_from_its_keys(
        self, target: str | Mapping[str, Any], loaded: Target
    ) -> None:
        """What is logged with a search is what is read again."""
        assert load_target(target_data(target)) == loaded

    def test_it_can_be_extended(self, target: str | Mapping[str, Any], loaded: Target) -> None:
        """A person's own device takes it over and changes a limit."""
        keys = target_data(target)
        limits = {**(keys.get("limits") or {}), "size": "10kB"}
        own = load_target({**keys, "name": "my-own", "limits": limits})
        assert own.limits == replace(loaded.limits, size_bytes=10_000)
        assert own.execution == loaded.execution

    def test_people_are_told_what_it_is(self, loaded: Target) -> None:
        """In one line."""
        assert loaded.description
        assert "\n" not in loaded.description

    def test_something_bounds_how_wrong_a_variant_may_be(self, loaded: Target) -> None:
        """Else the smallest wrong model would be promoted."""
        assert loaded.accuracy.any

    def test_limits_can_be_met(self, loaded: Target) -> None:
        """They are above zero, and in order."""
        limits = loaded.limits
        values = (limits.size_bytes, limits.latency_p50_ms, limits.latency_p95_ms,
                  limits.memory_bytes)  # fmt: skip
        assert all(value is None or (math.isfinite(value) and value > 0) for value in values)
        if limits.latency_p50_ms is not None and limits.latency_p95_ms is not None:
            assert limits.latency_p50_ms <= limits.latency_p95_ms

    def test_what_was_not_measured_is_not_promoted(self, loaded: Target) -> None:
        """Gates fail closed."""
        report = Report(1, 1000, 1000.0, 1.0, "0" * 64)
        variant = Variant("key", Recipe(), report, version=1)
        decision = decide([variant], loaded)
        assert decision.outcome == "none feasible"
        assert decision.version is None
