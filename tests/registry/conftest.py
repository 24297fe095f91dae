import pytest

from mlflow_compress.registry import promote, register_variants
from tests.registry.fleet import NAME, PI


@pytest.fixture
def add(client, make_variant, log_variant):
    """Return a function that registers one more variant."""

    def register(key, size, **numbers):
        variant = log_variant(make_variant(key, size=size, **numbers))
        (variant,) = register_variants(client, NAME, [variant])
        return variant.version

    return register


@pytest.fixture
def promoted(client, add):
    """``pi`` was on version 1, then on 2, and is on 3."""
    for key, size in (("a", 40_000), ("b", 30_000), ("c", 20_000)):
        add(key, size)
        promote(client, NAME, [PI])
