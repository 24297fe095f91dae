"""Variants as versions of a registered model: written once each, read back from tags."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mlflow_compress.base.json_text import parse_json
from mlflow_compress.errors import CompressError
from mlflow_compress.records import Variant
from mlflow_compress.registry.order import generation
from mlflow_compress.registry.policy import best_for, gap_text
from mlflow_compress.registry.tags import (
    describe,
    from_tags,
    rewrites,
    to_tags,
    with_measurements,
    with_quarantines,
)
from mlflow_compress.targets import Target
from mlflow_compress.tracking.models import ensure_model, first, using_tracking_uri, versions_of
from mlflow_compress.tracking.names import DIGEST, GAP, KEY, quoted
from mlflow_compress.tracking.pages import version_number
from mlflow_compress.tracking.patience import PATIENCE, patiently

__all__ = [
    "RegistryState",
    "read_state",
    "read_variants",
    "register_variants",
]

log = logging.getLogger(__name__)

_LINKS = "mlflow.modelVersions"


@dataclass(frozen=True)
class RegistryState:
    """What a registered model holds.

    Attributes:
        name: the registered model.
        exists: whether it is there at all.
        variants: the readable variants by version, one per key.
        aliases: alias to version.
        problems: one line per version that cannot be trusted.
        tags: the tags of the registered model.
        version_tags: the tags of every version of this project, readable or not, with the
            quarantines that the registered model has for its variant.
        description: the registered model's description.
        descriptions: the description of every version of this project.
    """

    name: str
    exists: bool = True
    variants: tuple[Variant, ...] = ()
    aliases: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    version_tags: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    description: str = ""
    descriptions: Mapping[int, str] = field(default_factory=dict)

    def variant(self, version: int | None) -> Variant | None:
        """Return the readable variant of a version, or None."""
        return next((one for one in self.variants if one.version == version), None)


def read_variants(client: MlflowClient, name: str) -> list[Variant]:
    """Read the variants of a registered model from its versions' tags.

    A version whose tags are broken or were edited is left out, with a warning in the log;
    :func:`read_state` also returns these.

    Args:
        client: where the registry is.
        name: the registered model.

    Raises:
        UnreachableError: the server does not answer.
    """
    state = read_state(client, name)
    for problem in state.problems:
        log.warning("%s", problem)
    return list(state.variants)


def read_state(client: MlflowClient, name: str, *, patience: float = PATIENCE) -> RegistryState:
    """Read all versions, tags and aliases of a registered model.

    Args:
        client: where the registry is.
        name: the registered model; it need not exist.
        patience: seconds to retry for.

    Raises:
        UnreachableError: the server does not answer.
    """
    return patiently(f"read registered model {name!r}", lambda: _read_state(client, name), patience)


def _read_state(client: MlflowClient, name: str) -> RegistryState:
    try:
        model = client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return RegistryState(name, exists=False)
        raise
    variants: dict[str, Variant] = {}
    problems: list[str] = []
    all_tags: dict[int, Mapping[str, str]] = {}
    descriptions: dict[int, str] = {}
    for found in versions_of(client, f"name = {quoted(name)}"):
        if not found.tags.keys() & {KEY, DIGEST} or found.status != "READY":
            continue
        number = version_number(found.version)
        all_tags[number] = with_quarantines(found.tags, model.tags)
        descriptions[number] = found.description or ""
        try:
            variant = from_tags(all_tags[number], number)
        except ValueError as error:
            problems.append(f"{name} version {number} is left out: {error}")
            continue
        # Of two versions of one variant, left by jobs that ran at once, the older one counts.
        first = variants.setdefault(variant.key, variant)
        if first is not variant:
            problems.append(
                f"{name} version {number} is left out: it is the same variant as version "
                f"{first.version}; move what uses it there and delete it"
            )
    return RegistryState(
        name=name,
        variants=tuple(sorted(variants.values(), key=lambda one: one.version or 0)),
        aliases={alias: version_number(version) for alias, version in model.aliases.items()},
        problems=tuple(problems),
        tags=dict(model.tags),
        version_tags=all_tags,
        description=model.description or "",
        descriptions=descriptions,
    )


def register_variants(
    client: MlflowClient,
    name: str,
    variants: Sequence[Variant],
    *,
    targets: Sequence[Target] = (),
    patience: float = PATIENCE,
) -> list[Variant]:
    """Make each variant a version of ``name``, exactly once however often this runs.

    For a target that none of the variants satisfies, the one that comes closest gets a tag
    ``compress.gap.<target>`` that says by what it misses.

    Args:
        client: where the registry is.
        name: the registered model; made when it is missing.
        variants: measured and logged (``model_uri`` is set).
        targets: the edge targets, for the gap tags.
        patience: seconds to retry each step for.

    Returns:
        The variants with their versions and quarantines, in the order given.

    Raises:
        CompressError: a variant was not logged, or MLflow refuses.
        UnreachableError: the server does not answer.
    """
    unlogged = next((one for one in variants if not one.model_uri), None)
    if unlogged is not None:
        raise CompressError(f"variant {unlogged.recipe.label!r} has no logged model to register")
    if not variants:
        return []
    what = f"create registered model {name!r}"
    held = patiently(what, lambda: ensure_model(client, name), patience)
    registered: list[Variant] = []
    for variant in variants:
        what = f"register {variant.recipe.label!r} as a version of {name!r}"
        found = patiently(what, lambda v=variant: _ensure_version(client, name, v, held), patience)  # type: ignore[misc]
        registered.append(found)
        patiently(what, lambda v=found: _link(client, name, v), patience)  # type: ignore[misc]
    for target in targets:
        what = f"tag the gap to target {target.name!r}"
        patiently(what, lambda t=target: _tag_gap(client, name, registered, t), patience)  # type: ignore[misc]
    return registered


def _ensure_version(
    client: MlflowClient, name: str, variant: Variant, of_model: Mapping[str, str]
) -> Variant:
    """Look the variant up by its key, make its version if there is none, and look again.

    MLflow creates a version and its tags in one transaction, so that a version with a key is
    whole. Two jobs may still create one each; the second look settles that.
    """
    query = f"name = {quoted(name)} AND tags.`{KEY}` = {quoted(variant.key)}"
    found = versions_of(client, query)
    if not found:
        with using_tracking_uri(client.tracking_uri):
            client.create_model_version(
                name,
                source=variant.model_uri,
                run_id=variant.run_id or None,
                tags=to_tags(variant),
                description=describe(variant),
                model_id=variant.model_uri.rpartition("/")[2],
            )
        found = versions_of(client, query)
    whole = [one for one in found if _problem(one) is None]
    if not whole:
        # Someone edited the tags; reading reports that, and registering does not overwrite it.
        return replace(variant, version=version_number(first(found, name).version))
    oldest, *younger = whole
    if younger:
        _drop_duplicates(client, name, [version_number(version.version) for version in younger])
    version = version_number(oldest.version)
    known = from_tags(with_quarantines(oldest.tags, of_model), version)
    # What is there stays; what was measured on devices since it was registered is added. When the
    # same source was registered again, its variants are the newer version's as well.
    newer = generation(variant) > generation(known)
    merged = replace(
        known,
        source=variant.source if newer else known.source,
        report=with_measurements(known.report, variant.report),
    )
    for tag, text in rewrites(oldest.tags, known, merged):
        client.set_model_version_tag(name, str(version), tag, text)
    return replace(variant, version=version, quarantined=known.quarantined)


def _problem(found: Any) -> str | None:
    """Say why a version cannot be read, or None when it can."""
    try:
        from_tags(found.tags, version_number(found.version))
    except ValueError as error:
        return str(error)
    return None


def _drop_duplicates(client: MlflowClient, name: str, versions: Sequence[int]) -> None:
    """Delete younger versions of one variant, unless an alias is on them."""
    aliases = client.get_registered_model(name).aliases
    held = {version_number(version) for version in aliases.values()}
    for version in versions:
        if version in held:
            continue
        try:
            client.delete_model_version(name, str(version))
        except MlflowException as error:
            # The job that made it has deleted it in the meantime.
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise


def _link(client: MlflowClient, name: str, variant: Variant) -> None:
    """Note the version on the logged model, where the UI's Models tab looks for it."""
    model_id = variant.model_uri.rpartition("/")[2]
    try:
        text = client.get_logged_model(model_id).tags.get(_LINKS)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return
        raise
    links = parse_json(text) if text else []
    link = {"name": name, "version": variant.version}
    if not any(
        one.get("name") == name and str(one.get("version")) == str(variant.version) for one in links
    ):
        client.set_logged_model_tags(model_id, {_LINKS: json.dumps([*links, link])})


def _tag_gap(client: MlflowClient, name: str, variants: Sequence[Variant], target: Target) -> None:
    """Tag the variant that comes closest with what it misses; take the tag off the others."""
    tag = GAP + target.name
    near, passes = best_for(variants, target)
    for variant in variants:
        version = str(variant.version)
        there = client.get_model_version(name, version).tags.get(tag)
        text = gap_text(variant, target) if variant is near and not passes else None
        if text and there != text:
            client.set_model_version_tag(name, version, tag, text)
        elif there and not text:
            client.delete_model_version_tag(name, version, tag)
