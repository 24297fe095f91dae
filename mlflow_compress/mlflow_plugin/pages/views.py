"""The pages: records in, HTML out."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import ChoiceLoader, Environment, PackageLoader
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from mlflow_compress import report as reporting
from mlflow_compress.errors import ConfigError
from mlflow_compress.mlflow_plugin.pages.actions import DONE
from mlflow_compress.mlflow_plugin.pages.assets import asset_names
from mlflow_compress.mlflow_plugin.pages.caller import Caller, static_prefix
from mlflow_compress.mlflow_plugin.pages.reading import ModelPage, list_models, read_model
from mlflow_compress.mlflow_plugin.pages.session import (
    promotion_allowed,
    session_of,
    set_session,
    token_of,
)
from mlflow_compress.records import Variant, format_score, shown_change
from mlflow_compress.targets import ALWAYS, Target, bound_of, judge, limits_of, shipped_names
from mlflow_compress.tracking.names import read_number

__all__ = ["failure", "index", "limit_lines", "model"]

_MODE = "?workflowType=machine_learning"


@cache
def _templates() -> Environment:
    pages = PackageLoader("mlflow_compress.mlflow_plugin.pages", "templates")
    shared = PackageLoader("mlflow_compress.report", ".")
    made = Environment(
        loader=ChoiceLoader([pages, shared]), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    made.globals |= {"when": _when, "version_link": _version_link, "run_link": _run_link}
    made.globals["format_score"] = format_score
    return made


def _render(template: str, **values: Any) -> str:
    home = f"{static_prefix()}/compress"
    static = {name: f"{home}/static/{full}" for name, full in asset_names().items()}
    values |= {"home": home, "static": static, "mlflow": f"{static_prefix()}/"}
    return _templates().get_template(template).render(**values)


def failure(_request: Request, status: int, text: str) -> str:
    """Return the page that says what went wrong."""
    return _render("failure.html.j2", status=status, text=text)


def index(request: Request, caller: Caller) -> Response:
    """List the registered models that hold variants."""
    models, more = list_models(caller.client, request.query_params.get("page"))
    following = f"?{urlencode({'page': more})}" if more else ""
    body = _render(
        "models.html.j2", models=[(m, _page_link(m.name)) for m in models], more=following
    )
    return HTMLResponse(body)


def model(request: Request, caller: Caller) -> Response:
    """Show one registered model."""
    asked = request.query_params.get("version", "")
    version = read_number(asked)
    if asked and version is None:
        raise ConfigError(f"version must be a number, got {asked[:40]!r}")
    page = read_model(caller, request.path_params["name"], version)
    session = session_of(request)
    known = {one.status.target for one in page.targets}
    layers = reporting.layer_rows(page.report) if page.report else []
    body = _render(
        "model.html.j2",
        page=page,
        here=_page_link(page.name),
        registered=f"{static_prefix()}/#/models/{quote(page.name, safe='')}{_MODE}",
        may_promote=promotion_allowed(),
        token=token_of(session),
        done=DONE.get(request.query_params.get("done", ""), ""),
        others=[name for name in shipped_names() if name not in known],
        rows=[_row(variant, page) for variant in page.variants],
        drop_head=reporting.drop_head(variant.report for variant in page.variants),
        layers=[tuple(row.values()) for row in layers],
        layer_head=[key.replace("_", " ") for key in layers[0]] if layers else [],
        stages=_stages(page),
        targets=[(one, _limits_text(one.limits, page)) for one in page.targets],
        figures=_figures(page),
    )
    response = HTMLResponse(body)
    set_session(response, session, request, f"{static_prefix()}/compress")
    return response


def _figures(page: ModelPage) -> str:
    links = {key: _run_link(page.experiment_id, run) for key, run in page.runs.items()}
    front = reporting.front_figure(
        page.trials, links=links if page.experiment_id else {}, limits=limit_lines(page)
    )
    layers = (
        reporting.figure_json(reporting.layers_figure(page.report))
        if page.report and page.report.layers
        else "null"
    )
    drawn = reporting.figure_json(front) if page.trials else "null"
    return f'{{"front-figure": {drawn}, "layers-figure": {layers}}}'


def limit_lines(page: ModelPage) -> list[reporting.LimitLines]:
    """Return the limits of each target on the axes of the front, where it has any there."""
    lines = []
    for one in page.targets:
        newest = next(reversed(page.variants), None)
        if one.limits is None or newest is None:
            continue
        target, report = one.limits, newest.report
        size, losses = bound_of(target, "size"), list[float]()
        if report.accuracy is not None:
            drop, least = bound_of(target, "accuracy_drop"), bound_of(target, "accuracy")
            if drop is not None:
                losses.append(shown_change(drop, report.accuracy.unit))
            if least is not None:
                losses.append(shown_change(report.accuracy.source - least, report.accuracy.unit))
        elif (agreement := bound_of(target, "agreement")) is not None:
            losses.append(100 * (1 - agreement))
        rate = report.source_bytes / size if size else None
        if rate is not None or losses:
            loss = min(losses) if losses else None
            lines.append(reporting.LimitLines(one.status.target, rate, loss))
    return lines


def _limits_text(target: Target | None, page: ModelPage) -> str:
    """Return what a target allows, in a line: of the newest version's outputs, each its own."""
    if target is None:
        return "not known here"
    newest = next(reversed(page.variants), None)
    if newest is None:
        limits, unit = limits_of(target), "share"
    else:
        limits = judge(target, newest.report)
        unit = newest.report.accuracy.unit if newest.report.accuracy else "share"
    texts = "; ".join(limit.text(unit) for limit in limits if limit.key not in ALWAYS)
    return f"{texts or 'no limits'}; best {target.objective}"


def _row(variant: Variant, page: ModelPage) -> dict[str, Any]:
    report = variant.report
    on = [one.status.target for one in page.targets if one.status.version == variant.version]
    run = page.runs.get(variant.key, "")
    return {
        "version": variant.version,
        "run": _run_link(page.experiment_id, run) if page.experiment_id and run else "",
        "cells": (
            variant.recipe.label,
            f"{report.rate:.1f}x",
            reporting.format_bytes(report.size_bytes),
            reporting.format_quality(report),
            reporting.format_drop(report),
            reporting.format_latency(report),
            ", ".join(on),
        ),
        "shown": page.shown is not None and page.shown.version == variant.version,
    }


def _stages(page: ModelPage) -> Sequence[tuple[str, ...]]:
    if page.report is None:
        return ()
    return [reporting.stage_cells(stage) for stage in page.report.stages]


def _page_link(name: str) -> str:
    return f"{static_prefix()}/compress/models/{quote(name, safe='')}"


def _version_link(name: str, version: int) -> str:
    return f"{static_prefix()}/#/models/{quote(name, safe='')}/versions/{version}{_MODE}"


def _run_link(experiment_id: str, run_id: str) -> str:
    parts = quote(experiment_id, safe=""), quote(run_id, safe="")
    return f"{static_prefix()}/#/experiments/{parts[0]}/runs/{parts[1]}{_MODE}"


def _when(milliseconds: int | None) -> str:
    if milliseconds is None:
        return "-"
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
