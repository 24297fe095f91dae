"""``promote`` and what undoes, holds back or settles a promotion."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from mlflow_compress.base.bounds import VERSION as VERSIONS
from mlflow_compress.cli.command import command, whole
from mlflow_compress.cli.output import echo, print_json
from mlflow_compress.cli.registered import (
    AS_JSON,
    TARGET,
    TRACKING_URI,
    WHY,
    Registered,
    check_alias,
    model_argument,
    open_model,
    utc,
)
from mlflow_compress.errors import ConfigError

if TYPE_CHECKING:
    from mlflow_compress.config.compress import Config
    from mlflow_compress.records import Decision
    from mlflow_compress.registry.decisions import LoggedDecision

__all__ = ["approve", "promote", "quarantine", "reject", "rollback", "unquarantine"]

VERSION: Any = click.argument("version", metavar="VERSION", type=whole(VERSIONS))


@command()
@click.argument("model", metavar="CONFIG|MODEL")
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="T",
    help="With CONFIG, the name of one of its targets [all]. With MODEL, a shipped profile's name "
    "or a profile's YAML file. May be repeated.",
)
@click.option("--dry-run", is_flag=True, help="Decide and say why, but write nothing.")
@click.option(
    "--require-approval",
    is_flag=True,
    help="Only ask for each promotion; approve or reject settles it.",
)
@click.option(
    "--take-over",
    is_flag=True,
    help="Decide also where somebody moved the alias by hand, which is left alone otherwise.",
)
@TRACKING_URI
@AS_JSON
def promote(
    model: str, targets: tuple[str, ...], tracking_uri: str | None, as_json: bool, **options: Any
) -> None:
    """Decide for each target on the registered variants, and move its alias.

    With CONFIG (a compress.yaml) the incumbent is scored on its evaluation rows first, and
    numbers from other rows do not count. With MODEL (a registered model's name) the numbers count
    as they were recorded, those on the incumbent's rows (on the newest version's when there is no
    incumbent, or it is quarantined). Nothing is searched or compressed. Exits with 3 when no
    variant passes the gates of some target; its alias stays where it is.
    """
    opened = open_model(model, tracking_uri)
    if opened.config is not None:
        decisions = _promote_config(opened, opened.config, targets, options)
    else:
        decisions = _promote_model(opened, targets, options)
    if as_json:
        from mlflow_compress.records import to_dict

        document = {"model": opened.name, "tracking_uri": opened.client.tracking_uri}
        document |= {"dry_run": options["dry_run"]}
        print_json(document | {"decisions": [to_dict(decision) for decision in decisions]})
    else:
        _show(decisions, options["dry_run"])
    sys.exit(3 if any(one.outcome == "none feasible" for one in decisions) else 0)


def _promote_config(
    opened: Registered, config: "Config", targets: Sequence[str], options: dict[str, Any]
) -> Sequence["Decision"]:
    from mlflow_compress.cli.progress import progress
    from mlflow_compress.jobs import compress as job

    config = config.model_copy(update={"tracking_uri": opened.client.tracking_uri})
    with progress() as watcher:
        return job.promote(config, only=targets, watcher=watcher, **options)


def _promote_model(
    opened: Registered, targets: Sequence[str], options: dict[str, Any]
) -> Sequence["Decision"]:
    from mlflow_compress import registry
    from mlflow_compress.targets import load_target

    if not targets:
        raise ConfigError(
            f"promote {opened.name}: name what to decide for with --target (a shipped profile's "
            "name or a profile's YAML file), or give the compress.yaml in place of the model's name"
        )
    profiles = [load_target(target) for target in targets]
    names = [profile.name for profile in profiles]
    twice = next((one for one in names if names.count(one) > 1), None)
    if twice is not None:
        raise ConfigError(f"--target: {twice!r} is named twice")
    return registry.promote(opened.client, opened.name, profiles, **options)


def _show(decisions: Sequence["Decision"], dry_run: bool) -> None:
    for decision in decisions:
        outcome: str = decision.outcome
        if dry_run and outcome == "promoted":
            outcome = "would be promoted"
        echo(f"{decision.target}: {outcome}: {decision.reason}")
    if dry_run:
        echo("nothing was written (--dry-run)")


@command()
@model_argument
@TARGET
@click.option(
    "--to",
    type=whole(VERSIONS),
    metavar="VERSION",
    help="The version to go back to [the one before].",
)
@WHY
@TRACKING_URI
@AS_JSON
def rollback(
    model: str, target: str, to: int | None, why: str, tracking_uri: str | None, as_json: bool
) -> None:
    """Put a target's alias back to the version before, or to the one named with --to.

    The version that it leaves is quarantined for this target: no promotion brings it back until
    unquarantine releases it. MODEL is the registered model's name, or the compress.yaml.
    """
    from mlflow_compress import registry

    opened = open_model(model, tracking_uri)
    done = registry.rollback(opened.client, opened.name, check_alias(target), to, why=why)
    _settled(opened, done, as_json)
    if not as_json:
        release = f"unquarantine {opened.name} {done.incumbent} --target {target}"
        echo(f"version {done.incumbent} stays away until: mlflow-compress {release}")


@command()
@model_argument
@VERSION
@TARGET
@WHY
@TRACKING_URI
@AS_JSON
def quarantine(
    model: str, version: int, target: str, why: str, tracking_uri: str | None, as_json: bool
) -> None:
    """Keep VERSION from being promoted to a target; an alias that is on it is not moved.

    The target is one that was decided for, or a shipped profile. MODEL is the registered model's
    name, or the compress.yaml.
    """
    from mlflow_compress import registry
    from mlflow_compress.registry.known import require_target

    opened = open_model(model, tracking_uri)
    if not registry.history(opened.client, opened.name, check_alias(target)):
        # kept from a target that is misspelt, it would be thought to be kept from the right one
        require_target(registry.read_state(opened.client, opened.name), target)
    registry.quarantine(opened.client, opened.name, version, check_alias(target), why=why)
    _quarantined(opened, version, target, True, as_json)


@command()
@model_argument
@VERSION
@TARGET
@TRACKING_URI
@AS_JSON
def unquarantine(
    model: str, version: int, target: str, tracking_uri: str | None, as_json: bool
) -> None:
    """Let VERSION be promoted to a target again, from the next promotion on.

    MODEL is the registered model's name, or the compress.yaml.
    """
    from mlflow_compress import registry

    opened = open_model(model, tracking_uri)
    registry.unquarantine(opened.client, opened.name, version, check_alias(target))
    _quarantined(opened, version, target, False, as_json)


def _quarantined(
    opened: Registered, version: int, target: str, quarantined: bool, as_json: bool
) -> None:
    if as_json:
        document = {"model": opened.name, "tracking_uri": opened.client.tracking_uri}
        state = {"target": target, "version": version, "quarantined": quarantined}
        print_json(document | state)
    elif quarantined:
        echo(f"{target}: version {version} is quarantined")
    else:
        echo(f"{target}: version {version} may be promoted again")


@command()
@model_argument
@TARGET
@TRACKING_URI
@AS_JSON
def approve(model: str, target: str, tracking_uri: str | None, as_json: bool) -> None:
    """Carry out the promotion that waits for a target since promote --require-approval.

    Refused when the alias was moved or the version was edited or quarantined in the meantime.
    MODEL is the registered model's name, or the compress.yaml.
    """
    from mlflow_compress import registry

    opened = open_model(model, tracking_uri)
    asked = registry.approve(opened.client, opened.name, check_alias(target))
    _settled(opened, asked, as_json, "approved")


@command()
@model_argument
@TARGET
@TRACKING_URI
@AS_JSON
def reject(model: str, target: str, tracking_uri: str | None, as_json: bool) -> None:
    """Turn down the promotion that waits for a target; the same one is not asked for again.

    MODEL is the registered model's name, or the compress.yaml.
    """
    from mlflow_compress import registry

    opened = open_model(model, tracking_uri)
    asked = registry.reject(opened.client, opened.name, check_alias(target))
    _settled(opened, asked, as_json, "rejected")


def _settled(
    opened: Registered, decision: "LoggedDecision", as_json: bool, approval: str = ""
) -> None:
    if as_json:
        document = {"model": opened.name, "tracking_uri": opened.client.tracking_uri}
        print_json(document | {"decision": decision_document(decision, approval)})
    elif approval:
        echo(
            f"{decision.target}: promotion to version {decision.version} {approval}: "
            f"{decision.reason}"
        )
    else:
        echo(f"{decision.target}: {decision.reason}")


def decision_document(decision: "LoggedDecision", approval: str = "") -> dict[str, Any]:
    """Return a logged decision as plain data, with its moment in UTC."""
    data = asdict(decision)
    data["time"] = utc(data.pop("start_ms"))
    data["approval"] = approval or data["approval"]
    return data
