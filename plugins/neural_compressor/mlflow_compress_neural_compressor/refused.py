"""What Intel Neural Compressor 3.10 lists and this plugin does not offer, each with the reason.

The reasons are checked by ``tests/test_matrix.py``.
"""

from mlflow_compress.errors import ConfigError

__all__ = ["REFUSED", "refuse_algorithm"]

REFUSED: dict[str, str] = {}


def refuse_algorithm(key: str, value: object) -> None:
    """Raise ConfigError with the reason when an algorithm is one of those not offered."""
    if isinstance(value, str) and value.lower() in REFUSED:
        raise ConfigError(f"{key}: {value!r} is not offered: {REFUSED[value.lower()]}")
