"""The rows that a configuration names, loaded."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow_compress import measure
from mlflow_compress.config.compress import DataConfig, DataRef

__all__ = ["load"]


def load(ref: str | DataRef, inputs: Mapping[str, Any] | None = None) -> measure.Dataset:
    """Load rows.

    Args:
        ref: a path or a function, or either with a name and the number of rows.
        inputs: what the configuration says of the model's inputs, by name.

    Raises:
        DataNotFoundError: there are none.
        DataError: they are no rows.
    """
    ref = DataConfig.ref(ref)
    name = ref.name or Path(ref.path).stem
    return measure.load_dataset(ref.path, name=name, limit=ref.rows, inputs=inputs)
