"""``status`` and ``history``: how the targets of a registered model stand, and came to that."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from mlflow_compress.base.bounds import COUNT
from mlflow_compress.cli.command import command, whole
from mlflow_compress.cli.output import echo, print_json, print_table, table
from mlflow_compress.cli.promote import decision_document
from mlflow_compress.cli.registered import (
    AS_JSON,
    TARGET,
    TRACKING_URI,
    check_alias,
    model_argument,
    open_model,
    utc,
    when,
)
from mlflow_compress.errors import ConfigError
from mlflow_compress.records import format_score

if TYPE_CHECKING:
    from mlflow_compress.registry import TargetStatus

__all__ = ["history", "status"]


@command()
@model_argument
@TRACKING_URI
@AS_JSON
def status(model: str, tracking_uri: str | None, as_json: bool) -> None:
    """Show each target: its version, with what rate, accuracy and latency, since when and why.

    Also what waits for approval, what is quarantined, an alias that was moved by hand, a version
    that was deleted or cannot be trusted. MODEL is the registered model's name, or the
    compress.yaml.
    """
    from mlflow_compress import registry

    opened = open_model(model, tracking_uri)
    found = registry.status(opened.client, opened.name)
    if as_json:
        document = {"model": opened.name, "tracking_uri": opened.client.tracking_uri}
        print_json(document | {"targets": [_document(one) for one in found]})
        return
    if not found:
        echo(f"{opened.name} has no targets: nothing was promoted yet")
        return
    shown = table("target", "version", "variant", "rate", "accuracy", "latency", "since", "run")
    for one in found:
        shown.add_row(
            one.target,
            "-" if one.version is None else str(one.version),
            one.recipe or "-",
            "-" if one.rate is None else f"{one.rate:.1f}x",
            _quality(one),
            _latency(one),
            when(one.since_ms),
            one.run_id or "-",
        )
    print_table(shown)
    for one in found:
        for line in _remarks(one):
            echo(f"{one.target}: {line}")


def _document(one: "TargetStatus") -> dict[str, Any]:
    data = asdict(one)
    data["since"] = utc(data.pop("since_ms"))
    return data


def _quality(one: "TargetStatus") -> str:
    """Return the accuracy, or without labels the closeness to the source."""
    if one.accuracy is None:
        return one.fidelity_text or "-"
    return format_score(one.accuracy, one.accuracy_unit)


def _latency(one: "TargetStatus") -> str:
    if one.latency_ms is None:
        return "-"
    place = one.latency_on.removeprefix("local").strip()
    return f"{one.latency_ms:.3g} ms {place}".strip()


def _remarks(one: "TargetStatus") -> list[str]:
    lines = [one.reason] if one.reason else []
    if one.problem:
        lines.append(f"PROBLEM: {one.problem}")
    if one.by_hand:
        done = "moved" if one.version is not None else "removed"
        lines.append(f"the alias was {done} by hand; promote leaves it alone without --take-over")
    if one.deleted is not None:
        lines.append(
            f"version {one.deleted}, where the alias was, has been deleted; there is no alias "
            "until the next promote, which decides anew"
        )
    if one.waiting is not None:
        lines.append(f"the promotion to version {one.waiting} waits for approve or reject")
    if one.previous is not None:
        lines.append(f"a rollback goes to version {one.previous}")
    if one.quarantined:
        lines.append(f"quarantined: {', '.join(map(str, one.quarantined))}")
    return lines


@command()
@model_argument
@TARGET
@click.option("--limit", type=whole(COUNT, 1), metavar="N", help="Show only the newest N.")
@TRACKING_URI
@AS_JSON
def history(
    model: str, target: str, limit: int | None, tracking_uri: str | None, as_json: bool
) -> None:
    """Show every decision for a target with its reason, newest first.

    Each is an MLflow run with decision.md and decision.json: all gates of all variants. MODEL is
    the registered model's name, or the compress.yaml.
    """
    from mlflow_compress import registry

    opened = open_model(model, tracking_uri)
    found = registry.history(opened.client, opened.name, check_alias(target))
    if not found:
        known = ", ".join(one.target for one in registry.status(opened.client, opened.name))
        raise ConfigError(
            f"no decision for target {target!r} of {opened.name!r} (targets: {known or 'none'})"
        )
    found = found[:limit]
    if as_json:
        document = {
            "model": opened.name,
            "tracking_uri": opened.client.tracking_uri,
            "target": target,
        }
        print_json(document | {"decisions": [decision_document(one) for one in found]})
        return
    shown = table("when", "outcome", "version", "was", "by", "reason", "run")
    for one in found:
        settled = f"{one.approval} by {one.settled_by}" if one.settled_by else one.approval
        outcome = f"{one.outcome} ({settled})" if settled else one.outcome
        shown.add_row(
            when(one.start_ms),
            outcome if one.status != "RUNNING" else f"{outcome}, not finished",
            "-" if one.version is None else str(one.version),
            "-" if one.incumbent is None else str(one.incumbent),
            f"{one.by or '-'}, finished by {one.finished_by}" if one.finished_by else one.by or "-",
            one.reason,
            one.run_id,
        )
    print_table(shown)
