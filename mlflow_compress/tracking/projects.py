"""Whose project a logged model is of."""

from contextlib import AbstractContextManager

from mlflow_compress.base.variables import variable

__all__ = ["no_project"]


def no_project() -> AbstractContextManager[str | None]:
    """Have MLflow log a model with its own requirements alone.

    Where the current folder is a uv project, MLflow would add its ``uv.lock`` and
    ``pyproject.toml`` to the model, and build serving environments from them.
    """
    return variable("MLFLOW_UV_AUTO_DETECT", "false")
