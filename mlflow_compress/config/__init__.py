"""The schemas of configuration files."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow_compress.config.compress import Config, config_schema, load_config

__all__ = ["Config", "config_schema", "load_config"]


def __getattr__(name: str) -> Any:
    # pydantic is imported only by what reads a file
    if name in __all__:
        from mlflow_compress.config import compress

        return getattr(compress, name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
