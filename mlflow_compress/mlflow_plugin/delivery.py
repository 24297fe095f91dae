"""What goes to a device: a model of MLflow, downloaded and compared with what was logged."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow

from mlflow_compress.base.scratch import ScratchFolder
from mlflow_compress.errors import ConfigError, SourceError, SourceNotFoundError
from mlflow_compress.mlflow_plugin.flavor import FLAVOR_NAME, verified
from mlflow_compress.tracking.client import connect
from mlflow_compress.tracking.mlmodel import flavor_of, read_mlmodel
from mlflow_compress.tracking.patience import patiently
from mlflow_compress.tracking.source import fix_version

__all__ = ["Delivery", "fetch"]


@dataclass(frozen=True)
class Delivery:
    """What goes to the device: the file, what is known of it, and its folder there."""

    content: bytes
    manifest: Mapping[str, Any]
    folder: str


def fetch(model_uri: str, flavor: str | None) -> Delivery:
    """Download a model and compare it with what was logged.

    Raises:
        SourceError: the model has another flavor.
        SourceNotFoundError: there is no such model, version or alias.
        PackedFormatError: the file is not the one that was logged.
        UnreachableError: the tracking server does not answer.
    """
    if flavor not in (None, FLAVOR_NAME):
        raise ConfigError(
            f"flavor {flavor!r} cannot be deployed to an edge target, only {FLAVOR_NAME}"
        )
    with ScratchFolder() as work:
        folder, uri, version = _download(model_uri, work)
        flavors = read_mlmodel(folder, model_uri).flavors
        if FLAVOR_NAME not in flavors:
            raise SourceError(f"{model_uri} has no flavor {FLAVOR_NAME}: compress it, or log it so")
        content = verified(folder).read_bytes()
    conf = flavors[FLAVOR_NAME]
    config = flavor_of(flavor_of(flavors, "python_function"), "config")
    missing = next((name for name in ("sha256", "profile") if name not in conf), None)
    if missing is not None:
        raise SourceError(f"{model_uri}: its MLmodel file does not say the {missing}")
    sha256 = str(conf["sha256"])
    manifest = {
        "flavor": FLAVOR_NAME,
        "model_uri": uri,
        "asked_for": model_uri,
        "version": version,
        "sha256": sha256,
        "bytes": len(content),
        "profile": conf["profile"],
        "threads": config.get("threads"),
        "providers": config.get("providers"),
        "sent_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    prefix = f"{version}-" if version is not None else ""
    return Delivery(content, manifest, prefix + sha256[:12])


def _download(model_uri: str, work: str) -> tuple[str, str, int | None]:
    """Return a model's folder, its URI with the version resolved, and the registered version."""
    if Path(model_uri).is_dir():
        return model_uri, model_uri, None
    if not re.match(r"[a-z][a-z0-9+.-]+:/", model_uri):
        raise SourceNotFoundError(f"model {model_uri!r}: no such folder")
    uri, version = model_uri, None
    client = connect()
    if model_uri.startswith(("models:/", "runs:/")):
        # The alias may move meanwhile: what is downloaded is the version that is recorded.
        uri, _, version = patiently(f"find {model_uri}", lambda: fix_version(model_uri, client))
    folder = patiently(
        f"download {uri}",
        lambda: mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=work),
    )
    return folder, uri, version
