"""What a visitor may do from the pages: the same functions that the command line calls."""

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from mlflow_compress import registry
from mlflow_compress.errors import ConfigError, SourceNotFoundError
from mlflow_compress.mlflow_plugin.pages.caller import PATIENCE, Caller, static_prefix
from mlflow_compress.mlflow_plugin.pages.reading import limits_of
from mlflow_compress.mlflow_plugin.pages.session import check_form
from mlflow_compress.registry.decisions import limits_digest
from mlflow_compress.registry.known import existing
from mlflow_compress.targets import load_target, shipped_names
from mlflow_compress.targets.profile import alias_problem
from mlflow_compress.tracking.names import LIMITS_TAG, VARIANTS_TAG
from mlflow_compress.tracking.patience import patiently

__all__ = ["DONE", "act"]

DONE: Mapping[str, str] = {
    "promote": "Decided again.",
    "rollback": "Rolled back, and the version it was on is quarantined.",
    "approve": "Approved and promoted.",
    "reject": "Rejected.",
}
"""What a page says after each action."""

_LONGEST = 500


def act(request: Request, caller: Caller) -> Response:
    """Do what a form asks for and lead back to the page.

    Raises:
        CompressError: the form was forged, or what it asks for cannot be done.
    """
    form = request.state.form
    check_form(request, form)
    name, action = request.path_params["name"], request.path_params["action"]
    target = form.get("target", "")
    problem = alias_problem(target)
    if action not in _ACTIONS or problem:
        raise ConfigError(f"cannot {action!r} target {target!r}: {problem or 'no such action'}")
    existing(caller.client, name, PATIENCE)
    _require_edit(caller, name)
    _ACTIONS[action](caller, name, target, form.get("why", "")[:_LONGEST])
    home = f"{static_prefix()}/compress/models/{quote(name, safe='')}"
    return RedirectResponse(f"{home}?done={action}#targets", 303)


def _require_edit(caller: Caller, name: str) -> None:
    """Fail for a visitor who may not edit the model before anything else is written.

    The tag is there already; writing it again changes nothing. A model that does not have it is
    none of ours, and is left as it is.

    Raises:
        SourceNotFoundError: the model does not have the tag.
        CompressError: the visitor may not edit it, or the server does not answer.
    """
    what = f"edit registered model {name!r}"
    model = patiently(what, lambda: caller.client.get_registered_model(name), PATIENCE)
    if model.tags.get(VARIANTS_TAG) != "yes":
        raise SourceNotFoundError(f"there is no registered model {name!r} that holds variants")
    patiently(
        what,
        lambda: caller.client.set_registered_model_tag(name, VARIANTS_TAG, "yes"),
        PATIENCE,
    )


def _promote(caller: Caller, name: str, target: str, _why: str) -> None:
    known = registry.history(caller.client, name, target, patience=PATIENCE)
    profile = limits_of(caller, known)
    told = _model(caller, name).tags.get(LIMITS_TAG + target)
    if profile is None and not known and told is None:
        # A path would be read from the server's disk.
        if target not in shipped_names():
            raise ConfigError(f"the limits of {target!r} are not known here: promote it once")
        profile = load_target(target)
    elif profile is None or limits_digest(profile) != told or profile.name != target:
        # Whoever may edit the experiment may have written them; the tag needs the model's rights.
        raise ConfigError(
            f"the limits in the latest decision for {target!r} are not known to be those that it "
            "was promoted by: decide once with mlflow-compress promote and the configuration"
        )
    registry.promote(caller.client, name, [profile], patience=PATIENCE)


def _model(caller: Caller, name: str) -> Any:
    what = f"read registered model {name!r}"
    return patiently(what, lambda: caller.client.get_registered_model(name), PATIENCE)


def _rollback(caller: Caller, name: str, target: str, why: str) -> None:
    registry.rollback(caller.client, name, target, why=" ".join(why.split()), patience=PATIENCE)


def _approve(caller: Caller, name: str, target: str, _why: str) -> None:
    registry.approve(caller.client, name, target, patience=PATIENCE)


def _reject(caller: Caller, name: str, target: str, _why: str) -> None:
    registry.reject(caller.client, name, target, patience=PATIENCE)


_ACTIONS: Mapping[str, Callable[[Caller, str, str, str], Any]] = {
    "promote": _promote,
    "rollback": _rollback,
    "approve": _approve,
    "reject": _reject,
}
