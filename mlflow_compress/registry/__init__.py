"""The registry: the policy that decides, and the thin layer that applies it to MLflow."""

from typing import TYPE_CHECKING, Any

from mlflow_compress.registry.policy import best_for, check, closest, decide, feasible

if TYPE_CHECKING:
    from mlflow_compress.registry.known import require_model
    from mlflow_compress.registry.operations import (
        approve,
        quarantine,
        reject,
        rollback,
        unquarantine,
    )
    from mlflow_compress.registry.promotion import promote
    from mlflow_compress.registry.standing import TargetStatus, history, status
    from mlflow_compress.registry.variants import (
        RegistryState,
        read_state,
        read_variants,
        register_variants,
    )

__all__ = [
    "RegistryState",
    "TargetStatus",
    "approve",
    "best_for",
    "check",
    "closest",
    "decide",
    "feasible",
    "history",
    "promote",
    "quarantine",
    "read_state",
    "read_variants",
    "register_variants",
    "reject",
    "require_model",
    "rollback",
    "status",
    "unquarantine",
]

_HOMES = {
    "RegistryState": "variants",
    "TargetStatus": "standing",
    "approve": "operations",
    "history": "standing",
    "promote": "promotion",
    "quarantine": "operations",
    "read_state": "variants",
    "read_variants": "variants",
    "register_variants": "variants",
    "reject": "operations",
    "require_model": "known",
    "rollback": "operations",
    "status": "standing",
    "unquarantine": "operations",
}


def __getattr__(name: str) -> Any:
    """Import what needs mlflow when it is first asked for; the policy needs none."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
