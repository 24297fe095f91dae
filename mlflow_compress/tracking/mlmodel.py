"""Reads ``MLmodel`` files, which anybody may have written who may log a model."""

import os
from typing import Any

from mlflow.models import Model

from mlflow_compress.errors import SourceError, named

__all__ = ["flavor_of", "read_mlmodel"]


def read_mlmodel(folder: str | os.PathLike[str], what: str) -> Model:
    """Read the file in a model's folder.

    Args:
        folder: the model's.
        what: the model, for messages.

    Raises:
        SourceError: it is no such file; MLflow's own reader raises whatever it meets.
    """
    try:
        model = Model.load(os.fspath(folder))
        flavors = dict(model.flavors or {})
    except Exception as error:
        why = named(error)
        raise SourceError(f"{what}: its MLmodel file cannot be read: {why[:200]}") from error
    model.flavors = {str(name): flavor_of(flavors, name) for name in flavors}
    return model


def flavor_of(flavors: Any, name: str) -> dict[str, Any]:
    """Return what a model says of a flavor, empty when it says nothing that can be understood."""
    said = flavors.get(name)
    return dict(said) if isinstance(said, dict) else {}
