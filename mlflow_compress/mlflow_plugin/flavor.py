"""The MLflow flavor ``mlflow_compress``: a packed ONNX model that loads as a session.

Through ``mlflow.pyfunc`` a model takes a dict of arrays by input name, or a bare array when it
has one input. It returns what the variant itself returns: the array when it has one output, a
dict of arrays by output name when it has several.
"""

import hashlib
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import onnx
import onnxruntime
from mlflow import MlflowClient
from mlflow.models import Model, ModelInputExample, ModelSignature
from mlflow.models.model import ModelInfo
from mlflow.types import Schema, TensorSpec

from mlflow_compress import packed
from mlflow_compress.base.about import plugin_version
from mlflow_compress.errors import (
    ConfigError,
    PackedFormatError,
    SourceError,
    SourceNotFoundError,
)
from mlflow_compress.packed.onnx.outside import inside, outside_files
from mlflow_compress.packed.opening import open_packed
from mlflow_compress.tracking.mlmodel import flavor_of, read_mlmodel
from mlflow_compress.tracking.projects import no_project

__all__ = [
    "FLAVOR_NAME",
    "download_packed",
    "load_model",
    "log_model",
    "save_model",
    "signature_of",
    "verified",
]

FLAVOR_NAME = "mlflow_compress"
FORMAT_VERSION = 1
MODEL_FILE = "model.onnx"
DEFAULT_PROVIDERS = ("CPUExecutionProvider",)

_NUMPY_TYPES = {
    "tensor(bool)": np.dtype(bool),
    "tensor(double)": np.dtype(np.float64),
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(string)": np.dtype(object),
    **{f"tensor({name})": np.dtype(name) for name in ("int8", "int16", "int32", "int64")},
    **{f"tensor({name})": np.dtype(name) for name in ("uint8", "uint16", "uint32", "uint64")},
}


def get_default_pip_requirements() -> list[str]:
    """Return what a loading environment needs, at the versions at hand.

    ``mlflow-compress`` itself is not in it; without it installed a model loads when it was
    logged with ``bundle_code=True``.
    """
    names = ("mlflow", "numpy", "onnx", "onnxruntime")
    return [f"{name}=={version(name)}" for name in names]


def signature_of(session: onnxruntime.InferenceSession, example: Any = None) -> ModelSignature:
    """Return a signature with one named tensor per input and output; free dimensions are -1.

    Args:
        session: of the model.
        example: its inputs by name, or the only one. An input that declares no shape, which
            onnxruntime tells apart from one number by nothing, has as many dimensions as there.

    Raises:
        SourceError: for an input or output that is no tensor, such as a sequence.
    """
    inputs = session.get_inputs()
    given = example if isinstance(example, Mapping) else {inputs[0].name: example} if inputs else {}

    def specs(values: Sequence[Any]) -> Schema:
        found = []
        for value in values:
            if value.type not in _NUMPY_TYPES:
                raise SourceError(f"{value.name!r} has type {value.type}, which MLflow cannot name")
            sizes = value.shape or [None] * np.ndim(given.get(value.name, 0))
            shape = tuple(size if isinstance(size, int) else -1 for size in sizes)
            found.append(TensorSpec(_NUMPY_TYPES[value.type], shape, value.name))
        return Schema(found)

    return ModelSignature(specs(inputs), specs(session.get_outputs()))


def save_model(  # noqa: PLR0913 - MLflow's flavors have these
    onnx_path: str | Path,
    path: str | Path,
    *,
    mlflow_model: Model | None = None,
    signature: ModelSignature | None = None,
    input_example: ModelInputExample | None = None,
    providers: Sequence[str] = DEFAULT_PROVIDERS,
    threads: int | None = None,
    raw_bytes: int | None = None,
    bundle_code: bool = False,
    code_paths: Sequence[str] | None = None,
    pip_requirements: Sequence[str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> None:
    """Save a packed (or plain) ONNX file as an MLflow model folder.

    Args:
        onnx_path: the file, which is copied; all of the model must be in it.
        path: the folder to make.
        mlflow_model: MLflow's record of the model, when it already has one.
        signature: by default read from the model itself.
        input_example: an array, or a dict of arrays by input name.
        providers: onnxruntime execution providers; ``model_config`` can override them.
        threads: threads per call, None for all; ``model_config`` can override it.
        raw_bytes: bytes of the source's weights, for the record.
        bundle_code: put this package into the folder, so that the model also loads where it
            is not installed.
        code_paths: further code to bundle.
        pip_requirements: by default mlflow, numpy, onnx and onnxruntime as installed here.
        metadata: free data for the MLmodel file.
        **kwargs: handed to :func:`mlflow.pyfunc.save_model`.

    Raises:
        ConfigError: providers or threads are none.
        PackedFormatError: the file is damaged.
        SourceError: the model has inputs or outputs that are no tensors, or weights elsewhere.
        SourceNotFoundError: there is no such file.
    """
    data, providers = Path(onnx_path), _provider_list(providers)
    session = packed.load(data, threads=1)
    _check_threads(threads)
    _check_whole(data)
    digest = hashlib.sha256(data.read_bytes()).hexdigest()
    profile = open_packed(data).profile if packed.is_packed(data) else "plain"
    model = mlflow_model if mlflow_model is not None else Model()
    stored = f"data/{MODEL_FILE}"
    model.add_flavor(
        FLAVOR_NAME,
        data=stored,
        profile=profile,
        sha256=digest,
        packed_bytes=data.stat().st_size,
        raw_bytes=raw_bytes,
        format_version=FORMAT_VERSION,
        package_version=plugin_version(),
    )
    if profile != "compact":
        # What onnxruntime loads by itself, MLflow's own flavor loads too.
        model.add_flavor("onnx", onnx_version=version("onnx"), data=stored, providers=providers)
    bundled = [*(code_paths or ()), *([str(Path(__file__).parents[1])] if bundle_code else [])]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), no_project():
        # The signature is read from the model itself, and is right without an example.
        warnings.filterwarnings("ignore", ".*input example was not provided.*")
        named = Path(folder) / MODEL_FILE
        named.write_bytes(data.read_bytes())
        mlflow.pyfunc.save_model(
            str(path),
            loader_module=__name__,
            data_path=str(named),
            mlflow_model=model,
            code_paths=bundled or None,
            signature=signature if signature is not None else signature_of(session, input_example),
            input_example=input_example,
            pip_requirements=list(pip_requirements or get_default_pip_requirements()),
            model_config={"providers": list(providers), "threads": threads},
            metadata=dict(metadata) if metadata else None,
            **kwargs,
        )


def log_model(
    onnx_path: str | Path, name: str, *, registered_model_name: str | None = None, **kwargs: Any
) -> ModelInfo:
    """Log a packed (or plain) ONNX file as an MLflow model of the active run.

    Args:
        onnx_path: the file.
        name: the logged model's name.
        registered_model_name: register it as a version of this model too.
        **kwargs: those of :func:`save_model` and of ``mlflow.models.Model.log``.

    Returns:
        MLflow's description of the logged model.
    """
    return Model.log(
        artifact_path=None,
        name=name,
        flavor=sys.modules[__name__],
        registered_model_name=registered_model_name,
        onnx_path=onnx_path,
        **kwargs,
    )


def load_model(
    model_uri: str,
    dst_path: str | None = None,
    providers: Sequence[str] | None = None,
    threads: int | None = None,
) -> onnxruntime.InferenceSession:
    """Load a model as an onnxruntime session.

    Args:
        model_uri: any URI of MLflow, such as ``models:/lenet-edge@raspberry-pi-4``.
        dst_path: an existing folder to download into.
        providers: onnxruntime execution providers; those it was saved with by default.
        threads: threads per call; those it was saved with by default.

    Raises:
        ConfigError: no such provider is available here, or threads are none.
        PackedFormatError: the file is not the one that was saved.
        SourceError: the model has another flavor.
    """
    folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=model_uri, dst_path=dst_path))
    flavors = read_mlmodel(folder, model_uri).flavors
    if FLAVOR_NAME not in flavors:
        raise SourceError(
            f"{model_uri} has no flavor {FLAVOR_NAME}, only {', '.join(sorted(flavors))}"
        )
    config = flavor_of(flavor_of(flavors, "python_function"), "config")
    return _session(
        folder,
        providers if providers is not None else config.get("providers"),
        threads if threads is not None else config.get("threads"),
    )


def download_packed(model_uri: str, folder: str | Path, client: MlflowClient) -> Path:
    """Download a model of this flavor and return the path of its ONNX file.

    Args:
        model_uri: any URI of MLflow.
        folder: an existing folder to download into.
        client: where the model is.

    Raises:
        SourceError: the model has another flavor.
    """
    # Here, because bundled code loads where only the requirements of a model are installed.
    from mlflow_compress.tracking.models import using_tracking_uri

    with using_tracking_uri(client.tracking_uri):
        got = mlflow.artifacts.download_artifacts(artifact_uri=model_uri, dst_path=str(folder))
    flavors = read_mlmodel(got, model_uri).flavors
    if FLAVOR_NAME not in flavors:
        raise SourceError(f"{model_uri} has no flavor {FLAVOR_NAME}")
    return inside(Path(got), flavors[FLAVOR_NAME].get("data"), f"{model_uri}: its MLmodel file")


def verified(folder: str | Path) -> Path:
    """Return the path of a model's file after comparing it with the MLmodel file beside it.

    Args:
        folder: of a model of this flavor.

    Raises:
        PackedFormatError: the file is not the one that was saved.
        SourceError: the MLmodel file names one outside of the folder.
    """
    conf = flavor_of(read_mlmodel(folder, f"model in {folder}").flavors, FLAVOR_NAME)
    data, expected = conf.get("data", f"data/{MODEL_FILE}"), conf.get("sha256")
    try:
        path = inside(Path(folder), data, "the MLmodel file's data")
    except SourceNotFoundError:
        raise PackedFormatError(
            f"{Path(folder) / data} is missing: log or download the model again"
        ) from None
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise PackedFormatError(
            f"{path.name} has sha256 {found[:16]}…, its MLmodel file says {str(expected)[:16]}…: "
            "log or download the model again"
        )
    return path


def _session(folder: Path, providers: Any, threads: Any) -> onnxruntime.InferenceSession:
    chosen = _provider_list(providers if providers is not None else DEFAULT_PROVIDERS)
    available = onnxruntime.get_available_providers()
    # onnxruntime warns and takes the CPU; of a list that has a second choice that is as asked for.
    if not any(_provider_name(one) in available for one in chosen):
        raise ConfigError(
            f"providers {chosen}: none of them is available here, only {', '.join(available)}"
        )
    _check_threads(threads)
    return packed.load(verified(folder), providers=chosen, threads=threads)


def _provider_list(given: Any) -> list[Any]:
    """Return execution providers as a list of names, or of names with their options.

    Raises:
        ConfigError: it is something else.
    """
    chosen = [given] if isinstance(given, str) else given
    is_list = isinstance(chosen, list | tuple) and len(chosen) > 0
    if not is_list or not all(isinstance(_provider_name(one), str) for one in chosen):
        raise ConfigError(
            f"providers must be a list of onnxruntime's execution providers, got {given!r}"
        )
    return [one if isinstance(one, str) else tuple(one) for one in chosen]


def _provider_name(given: Any) -> Any:
    """Return the name of a provider that may come with options, as ``(name, options)``."""
    return given[0] if isinstance(given, list | tuple) and len(given) == 2 else given


def _check_threads(given: Any) -> None:
    """Refuse what is no number of threads.

    Raises:
        ConfigError: saying so.
    """
    is_number = isinstance(given, int) and not isinstance(given, bool)
    if given is not None and not (is_number and given > 0):
        raise ConfigError(f"threads must be a whole number above 0, or None for all, got {given!r}")


def _check_whole(path: Path) -> None:
    """Refuse a model of several files: only one is stored, and its checksum kept.

    Raises:
        SourceError: naming the others.
    """
    model = onnx.load(str(path), load_external_data=False)
    elsewhere = outside_files(model, path.parent, str(path))
    if elsewhere:
        names = ", ".join(str(file.relative_to(path.parent)) for file in elsewhere)
        raise SourceError(
            f"{path} keeps weights in {names}: a model of this flavor is "
            "one file (mlflow-compress pack makes one below 2 GB)"
        )


class _PyFunc:
    """What ``mlflow.pyfunc`` calls."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self._inputs = [value.name for value in session.get_inputs()]
        self._outputs = [value.name for value in session.get_outputs()]

    def get_raw_model(self) -> onnxruntime.InferenceSession:
        """Return the onnxruntime session."""
        return self._session

    def predict(self, data: Any, params: Mapping[str, Any] | None = None) -> Any:
        """Run the model.

        Args:
            data: a dict of arrays by input name, or an array when there is one input.
            params: unused.

        Returns:
            An array, or a dict of arrays when the model has several outputs.
        """
        feeds = dict(data) if isinstance(data, Mapping) else {self._inputs[0]: np.asarray(data)}
        results = self._session.run(self._outputs, feeds)
        if len(results) == 1:
            return results[0]
        return dict(zip(self._outputs, results, strict=True))


def _load_pyfunc(data_path: str, model_config: Mapping[str, Any] | None = None) -> _PyFunc:
    config = model_config or {}
    return _PyFunc(
        _session(Path(data_path).parent.parent, config.get("providers"), config.get("threads"))
    )
