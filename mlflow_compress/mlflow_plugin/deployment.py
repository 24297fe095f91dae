"""The deployments target ``edge``: ``mlflow deployments create -t edge:/path --name lenet -m …``.

What happens on the device is in ``targets/shelf.py``, which is sent there with the model.
MLflow looks in this module for ``target_help``, ``run_local`` and the one client class.
"""

import base64
import io
import json
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from zipfile import BadZipFile

import click
import numpy as np
from mlflow.deployments import BaseDeploymentClient
from mlflow.exceptions import MlflowException
from mlflow.protos import databricks_pb2 as codes

from mlflow_compress.base.paths import from_home
from mlflow_compress.errors import (
    CompressError,
    ConfigError,
    DataError,
    SourceError,
    SourceNotFoundError,
    UnreachableError,
)
from mlflow_compress.targets import transport

if TYPE_CHECKING:
    import pandas as pd

    from mlflow_compress.mlflow_plugin.delivery import Delivery

__all__ = ["EdgeClient", "EdgeDeploymentError", "run_local", "target_help"]

HELP = """\
Target URI, with the folder that the deployments of a device are in:
  edge:/srv/models                       a folder of this machine (or a mounted card)
  edge:ssh://user@host:port/srv/models   a host, by the system's ssh client with your settings;
                                         its host key must be known; /~/models is in the home
  ...?python=/opt/venv/bin/python        Python on the host; python3 by default

An application on the device reads <folder>/<name>/current/model.onnx.

Configuration (-C name=value):
  create, update:  keep=2         versions kept, the running one and those before it
                   check=true     open the model on the device before switching to it, where
                                  its Python has onnxruntime
                   timeout=300    seconds for each attempt
  update:          rollback=true  back to the version before; without -m
  run-local:       root=.         folder of this machine to put it in
"""
_SHELF = Path(transport.__file__).with_name("shelf.py")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TIMEOUT = 300.0
_CODES = {
    ConfigError: codes.INVALID_PARAMETER_VALUE,
    DataError: codes.INVALID_PARAMETER_VALUE,
    SourceError: codes.INVALID_PARAMETER_VALUE,
    SourceNotFoundError: codes.RESOURCE_DOES_NOT_EXIST,
    UnreachableError: codes.TEMPORARILY_UNAVAILABLE,
}
_DEVICE_CODES = {
    "exists": codes.RESOURCE_ALREADY_EXISTS,
    "missing": codes.RESOURCE_DOES_NOT_EXIST,
}


class EdgeDeploymentError(MlflowException, click.ClickException):
    """A deployment failed; ``mlflow deployments`` prints the message as one line.

    Attributes:
        exit_code: what ``mlflow deployments`` exits with: that of ``mlflow-compress``.
    """

    def __init__(self, message: str, error_code: int, exit_code: int = 1) -> None:
        MlflowException.__init__(self, message, error_code)
        # click reads it of the instance, though it declares it on the class
        self.exit_code = exit_code  # type: ignore[misc]


@contextmanager
def _told() -> Iterator[None]:
    """Turn this project's errors, and MLflow's own, into the one that MLflow's tools expect."""
    try:
        yield
    except EdgeDeploymentError:
        raise
    except CompressError as error:
        code = _CODES.get(type(error), codes.INTERNAL_ERROR)
        raise EdgeDeploymentError(str(error), code, error.exit_code) from error
    except MlflowException as error:
        code = codes.ErrorCode.Value(error.error_code)
        raise EdgeDeploymentError(" ".join(str(error).split()), code) from error


@dataclass(frozen=True)
class _Place:
    """Where deployments are: a device, and a folder on it."""

    device: transport.Device
    root: str

    @classmethod
    def of(cls, target_uri: str) -> "_Place":
        """Read a target URI.

        Raises:
            ConfigError: it names no folder, or no host that can be reached.
        """
        rest = target_uri.partition(":")[2]
        if not rest.startswith("ssh://"):
            if not rest or re.match(r"//[^/]|[a-z+]+:", rest):
                raise ConfigError(
                    f"target {target_uri!r}: must be edge:/folder or edge:ssh://user@host/folder"
                )
            root = from_home(re.sub("^/+", "/", rest)).absolute()
            return cls(transport.LocalDevice("this machine"), str(root))
        try:
            parts = urlsplit(rest)
        except ValueError as error:
            raise ConfigError(f"target {target_uri!r}: {error}") from None
        root_there = parts.path.removeprefix("/") if parts.path.startswith("/~") else parts.path
        if not root_there.strip("/"):
            raise ConfigError(f"target {target_uri!r}: name the folder: edge:ssh://host/folder")
        device = transport.device_for(parts._replace(path="").geturl(), "target")
        return cls(device, root_there)

    def ask(
        self,
        task: str,
        name: str = "",
        files: Mapping[str, bytes] | None = None,
        *,
        timeout: float = _TIMEOUT,
        again: bool = True,
        **told: Any,
    ) -> dict[str, Any]:
        """Have the device do a task; ``again``: may it be done twice?"""
        text = json.dumps({"task": task, "root": self.root, "name": name, **told})
        sent = {**(files or {}), "told.json": text.encode()}
        attempts = {} if again else {"attempts": 1}
        answer = transport.ask(self.device, _SHELF, sent, [], timeout, **attempts)
        if "error" in answer:
            code = _DEVICE_CODES.get(answer.get("code", ""), codes.INTERNAL_ERROR)
            raise EdgeDeploymentError(f"{self.device.name}: {answer['error']}", code)
        return answer

    def odd(self, answer: object) -> UnreachableError:
        """Return the error for an answer that does not say what was asked to be done."""
        return UnreachableError(
            f"{self.device.name}: {str(answer)[:80]!r} is no answer to what was asked; what was "
            "to be done is perhaps not done: look with get"
        )


@dataclass(frozen=True)
class _Options:
    """The configuration of a deployment, as told by ``-C name=value`` or in Python."""

    keep: int = 2
    check: bool = True
    rollback: bool = False
    timeout: float = _TIMEOUT

    @classmethod
    def of(cls, config: Mapping[str, Any] | None) -> "_Options":
        """Read a configuration.

        Raises:
            ConfigError: a name is unknown, or a value is not of its kind.
        """
        readers = {
            "keep": lambda text: _number(text, int, 2),
            "check": _yes,
            "rollback": _yes,
            "timeout": lambda text: _number(text, float, 1),
        }
        found = {}
        for key, value in (config or {}).items():
            if key not in readers:
                raise ConfigError(f"config {key!r} is unknown: use {', '.join(readers)}")
            try:
                found[key] = readers[key](str(value).lower())
            except ValueError as error:
                raise ConfigError(f"config {key}={value}: {error}") from None
        return cls(**found)


def _yes(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError("must be true or false")
    return text == "true"


def _number(text: str, kind: type, least: int) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not least <= value < float("inf"):
        raise ValueError(f"must be a number, at least {least}")
    return value


def _checked_name(name: str | None) -> str:
    if not name or not _NAME.fullmatch(name):
        raise ConfigError(
            f"deployment name {name!r}: use letters, digits, '.', '_' and '-', at most 100, "
            "the first a letter or digit"
        )
    return name


class EdgeClient(BaseDeploymentClient):
    """Deploys packed models to a folder, or to a host over SSH.

    Every method raises :class:`EdgeDeploymentError`, an ``MlflowException``, with one line.
    """

    def __init__(self, target_uri: str) -> None:
        super().__init__(target_uri)
        with _told():
            self._place = _Place.of(target_uri)

    def create_deployment(
        self,
        name: str,
        model_uri: str,
        flavor: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Put a model on the device under a name that is free, and return its description."""
        with _told():
            options = _Options.of(config)
            if options.rollback:
                raise ConfigError("config rollback=true: only update takes it")
            return self._send(name, _fetch(model_uri, flavor), options, create=True)

    def update_deployment(
        self,
        name: str,
        model_uri: str | None = None,
        flavor: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Switch to another model, or with ``rollback`` in the config to the version before."""
        with _told():
            options = _Options.of(config)
            if options.rollback == (model_uri is not None):
                raise ConfigError("an update takes a model URI (-m) or rollback=true, one of them")
            if model_uri is None:
                name = _checked_name(name)
                told = self._place.ask("rollback", name, timeout=options.timeout, again=False)
                return self._described(told, name, intact=True)
            return self._send(name, _fetch(model_uri, flavor), options, create=False)

    def delete_deployment(self, name: str, config: Mapping[str, Any] | None = None) -> None:
        """Remove a deployment and all its versions from the device."""
        with _told():
            options, name = _Options.of(config), _checked_name(name)
            answer = self._place.ask("delete", name, timeout=options.timeout, again=False)
            if answer != {"deleted": name}:
                raise self._place.odd(answer)

    def list_deployments(self) -> list[dict[str, Any]]:
        """Return the descriptions of all deployments in the folder."""
        with _told():
            answer = self._place.ask("list")
            found = answer.get("deployments")
            if not isinstance(found, list):
                raise self._place.odd(answer)
            return [self._described(one) for one in found]

    def get_deployment(self, name: str) -> dict[str, Any]:
        """Return a deployment's description; ``intact`` says that its file is as it was sent."""
        with _told():
            return self._described(self._place.ask("get", _checked_name(name)), name)

    def predict(self, deployment_name: str | None = None, inputs: Any = None) -> Any:
        """Run the model on the device.

        Args:
            deployment_name: the deployment's name.
            inputs: an array when the model has one input, a dict of arrays by input name, or a
                DataFrame: a column per input with a row's value in each cell, or the features
                of the only input as columns.

        Returns:
            For a DataFrame, a DataFrame with a column per output. Otherwise the array when the
            model has one output, a dict of arrays by output name when it has several.
        """
        with _told():
            name = _checked_name(deployment_name)
            table = hasattr(inputs, "columns")
            names, arrays = _arrays(inputs, table)
            buffer = io.BytesIO()
            np.savez(buffer, *arrays)
            files = {"inputs.npz": buffer.getvalue()}
            answer = self._place.ask("predict", name, files, names=names, table=table)
            try:
                outputs = _outputs(answer)
            except (KeyError, TypeError, ValueError, OSError, EOFError, BadZipFile):
                raise self._place.odd(answer) from None
            if table:
                return _table(outputs, len(inputs))
            return next(iter(outputs.values())) if len(outputs) == 1 else outputs

    def _send(
        self, name: str, delivery: "Delivery", options: _Options, create: bool
    ) -> dict[str, Any]:
        answer = self._place.ask(
            "place",
            _checked_name(name),
            {"model.onnx": delivery.content},
            timeout=options.timeout,
            create=create,
            # By it the device knows an attempt whose answer was lost.
            delivery=uuid.uuid4().hex,
            version_folder=delivery.folder,
            manifest=delivery.manifest,
            keep=options.keep,
            check=options.check,
        )
        told = {"sha256": delivery.manifest["sha256"], "folder": delivery.folder}
        return self._described(answer, name, intact=True, **told)

    def _described(self, answer: Any, name: str | None = None, **told: Any) -> dict[str, Any]:
        """Return a deployment's description, as long as it is one.

        Raises:
            UnreachableError: it is none, or not that of ``name``, or says else than ``told``.
        """
        told = told if name is None else {"name": name, **told}
        good = isinstance(answer, dict) and all(answer.get(key) == told[key] for key in told)
        texts = good and all(isinstance(answer.get(key), str) for key in ("name", "folder"))
        if not texts or not isinstance(answer.get("intact"), bool):
            raise self._place.odd(answer)
        return dict(answer)


def _fetch(model_uri: str, flavor: str | None) -> "Delivery":
    # onnxruntime is imported only by what needs it
    from mlflow_compress.mlflow_plugin.delivery import fetch

    return fetch(model_uri, flavor)


def _arrays(inputs: Any, table: bool) -> tuple[list[str], list[np.ndarray]]:
    """Return the names, none for a bare array, and the arrays that can be sent."""
    if table:
        pairs = [(str(name), column.tolist()) for name, column in inputs.items()]
    elif isinstance(inputs, Mapping):
        pairs = [(str(name), value) for name, value in inputs.items()]
    else:
        pairs = [("", inputs)]
    arrays = []
    for name, value in pairs:
        try:
            array = np.asarray(value)
        except ValueError:
            array = np.empty(0, object)  # rows of different lengths
        if array.dtype == object and array.size and all(isinstance(s, str) for s in array.flat):
            array = array.astype(str)
        if array.dtype.kind not in "biufU":
            raise DataError(
                f"input {name!r}: numbers or texts of one shape are needed, got {array.dtype}"
            )
        arrays.append(array)
    return [name for name, _ in pairs if name], arrays


def _outputs(answer: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return a prediction's arrays by output name."""
    names = answer["names"]
    with np.load(io.BytesIO(base64.b64decode(answer["npz"])), allow_pickle=False) as stored:
        if len(stored.files) != len(names) or len({str(name) for name in names}) != len(names):
            raise ValueError("not an array for each name")
        return {str(name): stored[f"arr_{i}"] for i, name in enumerate(names)}


def _table(outputs: Mapping[str, np.ndarray], rows: int) -> "pd.DataFrame":
    import pandas as pd

    for name, array in outputs.items():
        if array.shape[:1] != (rows,):
            raise DataError(
                f"output {name!r} has shape {array.shape}, no row for each of {rows}: "
                "give arrays in place of a table"
            )
    return pd.DataFrame({name: array.tolist() for name, array in outputs.items()})


def target_help() -> str:
    """Return what ``mlflow deployments help -t edge`` prints."""
    return HELP


def run_local(
    name: str, model_uri: str, flavor: str | None = None, config: Mapping[str, Any] | None = None
) -> None:
    """Deploy a model to a folder of this machine: ``root`` in the config, or the current one."""
    options = dict(config or {})
    root = str(options.pop("root", "."))
    EdgeClient(f"edge:{root}").create_deployment(name, model_uri, flavor, options)
