"""The source model: found wherever its URI points, with its version resolved."""

import hashlib
import re
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import onnx
from google.protobuf.message import DecodeError
from mlflow import MlflowClient
from mlflow.environment_variables import MLFLOW_ALLOW_PICKLE_DESERIALIZATION
from mlflow.exceptions import MlflowException

from mlflow_compress.base.modules import require_modules
from mlflow_compress.base.spelling import hint
from mlflow_compress.base.variables import variable
from mlflow_compress.errors import SourceError, SourceNotFoundError
from mlflow_compress.packed.onnx.outside import inside, load_model, outside_files, plain_file
from mlflow_compress.tracking.client import connect
from mlflow_compress.tracking.models import using_tracking_uri
from mlflow_compress.tracking.names import quoted
from mlflow_compress.tracking.pages import version_number
from mlflow_compress.tracking.patience import is_lasting, is_transient, one_line, patiently

if TYPE_CHECKING:
    from numpy.typing import NDArray

from mlflow_compress.tracking.mlmodel import flavor_of, read_mlmodel

__all__ = ["ResolvedSource", "fix_version", "identify", "resolve", "source_name"]

_MISSING = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")


@dataclass(frozen=True)
class ResolvedSource:
    """A source model that was found.

    Attributes:
        uri: the URI with the version resolved, such as ``models:/lenet/3``, or the path.
        name: a name for people and for registered models: ``lenet``.
        kind: ``onnx`` or ``pytorch``.
        version: the registered version, None when it is not a registered model.
        folder: where the MLflow model was downloaded to, None for a file or a model in memory.
        onnx_path: the ONNX file, None for a PyTorch model or a model in memory.
        signature: MLflow's signature of the model, or None.
        trust: whether code in the model may run.
        given: the model in memory that stands for the source, or None.
    """

    uri: str
    name: str
    kind: str
    version: int | None = None
    folder: Path | None = None
    onnx_path: Path | None = None
    signature: Any = None
    trust: bool = False
    given: Any = field(default=None, repr=False, compare=False)

    @cached_property
    def model(self) -> onnx.ModelProto | None:
        """The ONNX model with its weights, None when the source is a PyTorch module.

        Raises:
            SourceError: the file is no ONNX model.
        """
        if self.kind != "onnx":
            return None
        return self.given if self.given is not None else _load_onnx(self.onnx_path, self.uri)

    @cached_property
    def module(self) -> Any:
        """The PyTorch module, on the CPU; None when the source is ONNX.

        Raises:
            SourceError: MLflow cannot load it.
        """
        if self.kind != "pytorch":
            return None
        if self.given is not None:
            return self.given
        return _load_pytorch(self.folder, self.uri, self.trust)

    @cached_property
    def input_example(self) -> "Mapping[str, NDArray[Any]] | NDArray[Any] | None":
        """The input example that was logged with the model, or None."""
        if self.folder is None:
            return None
        model = read_mlmodel(self.folder, f"source {self.uri!r}")
        said = model.saved_input_example_info
        if said:
            inside(self.folder, said.get("artifact_path"), f"source {self.uri!r}: its example")
        return model.load_input_example(str(self.folder))


def resolve(
    uri: str,
    work_dir: str | Path,
    *,
    source: Any = None,
    client: MlflowClient | None = None,
    trust: bool = False,
) -> ResolvedSource:
    """Find a source model and download it.

    Args:
        uri: ``models:/name@alias``, ``models:/name/3``, ``models:/m-…``, ``runs:/…/…``, or the
            path of an ``.onnx`` file.
        work_dir: existing folder to download into.
        source: an ``onnx.ModelProto`` or ``torch.nn.Module`` that is the source; ``uri`` is
            then only what it is called.
        client: where the registry is; MLflow's current tracking URI by default.
        trust: whether code that the model brings along may run: PyTorch's pickles are programs.

    Raises:
        SourceNotFoundError: there is no such model, version, alias or file.
        SourceError: it is neither an ONNX nor a PyTorch model, or a program that is not trusted.
        UnreachableError: the server does not answer.
    """
    if source is not None:
        return _given(uri, source)
    if re.match(r"(models|runs):/", uri):
        return _from_mlflow(uri, Path(work_dir), client or connect(), trust)
    if re.match(r"[a-z][a-z0-9+.-]+:/", uri):
        raise SourceNotFoundError(
            f"source {uri!r}: use models:/name@alias, models:/name/3, runs:/…, or a path"
        )
    path = Path(uri)
    plain_file(path, f"source {uri!r}")
    _load_onnx(path, uri)
    return ResolvedSource(uri=uri, name=_slug(path.stem), kind="onnx", onnx_path=path)


def source_name(uri: str, client: MlflowClient) -> str:
    """Return the name of the source that a URI or path points to, without reading the model.

    Raises:
        SourceNotFoundError: there is no such model, version or alias.
        UnreachableError: the server does not answer.
    """
    if not re.match(r"(models|runs):/", uri):
        return _slug(Path(uri).stem)
    name = patiently(f"find source {uri}", lambda: fix_version(uri, client))[1]
    return name or _slug(uri.rpartition("/")[2])


def identify(uri: str, client: MlflowClient) -> tuple[str, str]:
    """Return a source's URI with its version resolved, and what tells its content from another's.

    What MLflow holds under a version, a logged model or a run does not change, so that the URI
    says it all; of a file, its bytes and those of its external data count, not where it lies.

    Raises:
        SourceNotFoundError: there is no such model, version, alias or file.
        SourceError: the file is no ONNX model, or its external data are not in its folder.
        UnreachableError: the server does not answer.
    """
    if re.match(r"(models|runs):/", uri):
        fixed = patiently(f"find source {uri}", lambda: fix_version(uri, client))[0]
        return fixed, fixed
    path = Path(uri)
    plain_file(path, f"source {uri!r}")
    try:
        model = onnx.load(uri, load_external_data=False)
    except (DecodeError, OSError, ValueError) as error:
        raise SourceError(f"source {uri!r} is not an ONNX model: {one_line(error, 120)}") from error
    sha = hashlib.sha256()
    for file in (path, *outside_files(model, path.parent, f"source {uri!r}")):
        try:
            with file.open("rb") as opened:
                sha.update(hashlib.file_digest(opened, "sha256").digest())
        except OSError as error:
            raise SourceNotFoundError(f"source {uri!r}: {file}: {error.strerror}") from error
    return uri, sha.hexdigest()


def _given(uri: str, source: Any) -> ResolvedSource:
    kind = "onnx" if isinstance(source, onnx.ModelProto) else "pytorch"
    if kind == "pytorch" and not callable(getattr(source, "state_dict", None)):
        raise SourceError(
            f"a source is a URI, a path, an onnx.ModelProto or a torch.nn.Module, "
            f"got {type(source).__name__}"
        )
    return ResolvedSource(uri=uri, name=_slug(Path(uri).stem), kind=kind, given=source)


def _slug(text: str) -> str:
    """Return a name that a registered model may have."""
    return re.sub(r"[^\w.\- ]+", "-", text).strip("-") or "model"


def _from_mlflow(uri: str, work_dir: Path, client: MlflowClient, trust: bool) -> ResolvedSource:
    fixed, name, version = patiently(f"find source {uri}", lambda: fix_version(uri, client))
    with using_tracking_uri(client.tracking_uri):
        folder = patiently(f"download source {fixed}", lambda: _download(fixed, work_dir))
        model = read_mlmodel(folder, f"source {uri!r}")
    flavors = set(model.flavors)
    if "onnx" in flavors:
        data = flavor_of(model.flavors, "onnx").get("data")
        kind, onnx_path = "onnx", inside(folder, data, f"source {uri!r}: data of its MLmodel file")
    elif "pytorch" in flavors:
        kind, onnx_path = "pytorch", None
        if not trust:
            _refuse_code(folder, model.flavors["pytorch"], uri)
    else:
        found = ", ".join(sorted(flavors - {"python_function"})) or "python_function"
        raise SourceError(
            f"source {uri!r} has flavor {found}: only onnx and pytorch models can be compressed"
        )
    if onnx_path is not None:
        _load_onnx(onnx_path, uri)
    return ResolvedSource(
        uri=fixed,
        name=name or _slug(uri.rpartition("/")[2]),
        kind=kind,
        version=version,
        folder=folder,
        onnx_path=onnx_path,
        signature=model.signature,
        trust=trust,
    )


def _refuse_code(folder: Path, flavor: Any, uri: str) -> None:
    """Refuse a PyTorch model that is, or brings along, code which loading it would run.

    Raises:
        SourceError: with the line to write.
    """
    said = dict(flavor or {})
    where, what = f"{said.get('model_data', 'data')}", None
    if said.get("code"):
        what = "brings code along"
    if not (folder / where / "model.pt2").exists() or (folder / where / "model.pth").exists():
        what = "is a pickle"
    else:
        inside(folder, f"{where}/model.pt2", f"source {uri!r}: model_data of its MLmodel file")
    if what is not None:
        raise SourceError(
            f"source {uri!r} {what}, which would run here with all that this job may do: write "
            "trust: true into the configuration if you trust whoever can register it, or log it "
            "with serialization_format='pt2' and without code"
        )


def fix_version(uri: str, client: MlflowClient) -> tuple[str, str, int | None]:
    """Return the URI with alias or ``latest`` replaced by a version, the name, the version.

    Raises:
        SourceNotFoundError: there is no such model, version or alias.
    """
    if uri.startswith("runs:/"):
        match = re.fullmatch(r"runs:/([^/]+)/(.+)", uri)
        if match is None:
            raise SourceNotFoundError(f"source {uri!r}: must be runs:/<run id>/<model name>")
        _or_missing(uri, lambda: client.get_run(match.group(1)))
        return uri, _slug(match.group(2).rpartition("/")[2]), None
    path = uri.removeprefix("models:/").strip("/")
    if re.fullmatch(r"m-[0-9a-f]+", path):
        logged = _or_missing(uri, lambda: client.get_logged_model(path))
        return f"models:/{path}", _slug(logged.name), None
    alias = re.fullmatch(r"([^/@]+)@([^/@]+)", path)
    numbered = re.fullmatch(r"([^/@]+)/(\d+|latest)", path)
    if alias:
        name, wanted = alias.groups()
        aliases = _or_missing(uri, lambda: client.get_registered_model(name)).aliases
        if wanted not in aliases:
            told = hint(wanted, sorted(aliases), "aliases: ")
            raise SourceNotFoundError(f"source {uri!r}: {name!r} has no alias {wanted!r} ({told})")
        version = version_number(aliases[wanted])
    elif numbered and numbered.group(2) != "latest":
        name, version = numbered.group(1), int(numbered.group(2))
        _or_missing(uri, lambda: client.get_model_version(name, str(version)))
    elif numbered:
        name = numbered.group(1)
        _or_missing(uri, lambda: client.get_registered_model(name))
        versions = client.search_model_versions(f"name = {quoted(name)}", max_results=10000)
        if not versions:
            raise SourceNotFoundError(f"source {uri!r}: {name!r} has no version")
        version = max(version_number(one.version) for one in versions)
    else:
        raise SourceNotFoundError(
            f"source {uri!r}: must be models:/name@alias, models:/name/3 or models:/m-…"
        )
    return f"models:/{name}/{version}", name, version


def _or_missing(uri: str, call: Any) -> Any:
    """Call, and turn MLflow's ways of saying "not there" into one."""
    try:
        return call()
    except MlflowException as error:
        if error.error_code in _MISSING:
            raise SourceNotFoundError(f"source {uri!r}: {one_line(error)}") from None
        raise


_LOCAL = re.compile(r"downloading one or more artifacts from (/|file:)")


def _download(uri: str, work_dir: Path) -> Path:
    folder = work_dir / "source"
    folder.mkdir(exist_ok=True)
    try:
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder)))
    except (MlflowException, OSError) as error:
        # of a store on this machine, too, MLflow says that waiting may help
        if is_lasting(error) or (is_transient(error) and not _LOCAL.search(str(error))):
            raise
        raise SourceNotFoundError(f"source {uri!r}: {one_line(error)}") from error


def _load_onnx(path: Path | None, uri: str) -> onnx.ModelProto:
    model = load_model(Path(path or uri), f"source {uri!r}")
    # An empty or foreign file can decode to a message without any content.
    if not model.graph.node or not model.opset_import:
        raise SourceError(f"source {uri!r} is not an ONNX model: it has no graph")
    return model


def _load_pytorch(folder: Path | None, uri: str, trust: bool) -> Any:
    require_modules({"torch": "mlflow-compress[torch]"}, f"source {uri!r}, a PyTorch model,")
    import torch

    # has MLflow refuse what in a model is a pickle, a .pt2 archive's parts too
    safely = variable(MLFLOW_ALLOW_PICKLE_DESERIALIZATION.name, "false")
    try:
        with nullcontext() if trust else safely:
            module = mlflow.pytorch.load_model(str(folder), map_location=torch.device("cpu"))
    except ImportError as error:
        # The module's own code was neither logged with it nor installed here.
        raise SourceError(f"source {uri!r} cannot be loaded here: {one_line(error)}") from error
    except (MlflowException, AttributeError, OSError, RuntimeError) as error:
        raise SourceError(f"source {uri!r} cannot be loaded: {one_line(error)}") from error
    return module
