"""Registered models and targets that have to be there, and what a misspelt name may have meant."""

from typing import Any

from mlflow_compress.base.spelling import hint
from mlflow_compress.errors import ConfigError
from mlflow_compress.registry.variants import RegistryState, read_state
from mlflow_compress.targets import shipped_names
from mlflow_compress.targets.profile import PREVIOUS, alias_problem
from mlflow_compress.tracking.names import ALIAS_TAG, QUARANTINE, VARIANTS_TAG, quoted
from mlflow_compress.tracking.patience import PATIENCE, patiently, without_password

__all__ = ["existing", "known_targets", "require_model", "require_target"]


def known_targets(state: RegistryState) -> set[str]:
    """Return the targets that have or had a version, or that one is kept from."""
    tags = [*state.tags, *(tag for tags in state.version_tags.values() for tag in tags)]
    named = {tag.removeprefix(ALIAS_TAG) for tag in tags if tag.startswith(ALIAS_TAG)}
    kept = {tag.removeprefix(QUARANTINE) for tag in tags if tag.startswith(QUARANTINE)}
    targets = {one for one in named | kept if not alias_problem(one)}
    return targets | {alias for alias in state.aliases if not alias.endswith(PREVIOUS)}


def require_target(state: RegistryState, target: str) -> None:
    """Refuse a target that nobody has heard of: not a shipped profile either.

    Raises:
        ConfigError: it is most likely misspelt.
    """
    known = known_targets(state)
    if target not in {*known, *shipped_names()}:
        told = hint(target, sorted(known), "targets: ")
        raise ConfigError(f"{state.name!r} has no target {target!r} ({told})")


def existing(client: Any, name: str, patience: float) -> RegistryState:
    """Read a registered model that has to be there; who asks may not be allowed to see others."""
    state = read_state(client, name, patience=patience)
    if not state.exists:
        raise ConfigError(_absent(client, name))
    return state


def _absent(client: Any, name: str) -> str:
    return f"there is no registered model {name!r} in {without_password(str(client.tracking_uri))}"


def require_model(client: Any, name: str, *, patience: float = PATIENCE) -> None:
    """Refuse a registered model that is not there, with what its name may have meant.

    Raises:
        ConfigError: there is no such registered model.
        UnreachableError: the server does not answer.
    """

    def named(query: str) -> list[str]:
        models = patiently(
            f"look for {name!r}", lambda: client.search_registered_models(query), patience
        )
        return [one.name for one in models]

    if name not in named(f"name = {quoted(name)}"):
        others = sorted(named(f"tags.`{VARIANTS_TAG}` = 'yes'"))
        told = hint(name, others, "those with variants: ")
        raise ConfigError(f"{_absent(client, name)} ({told})")
