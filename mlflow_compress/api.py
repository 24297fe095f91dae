"""The Python door: :func:`compress`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow_compress import measure
from mlflow_compress.config.compress import absolute_paths, input_specs, parse_config
from mlflow_compress.errors import ConfigError
from mlflow_compress.jobs import compress as job
from mlflow_compress.records import InputSpec

__all__ = ["compress"]

_IN_MEMORY = "in memory"
_ROLES = ("calibration", "train", "evaluation")


def compress(  # noqa: PLR0913 - one for each key of a configuration
    source: Any,
    *,
    data: Any,
    recipe: Sequence[Any] | None = None,
    recipes: Sequence[Sequence[Any]] | None = None,
    targets: Sequence[str | Mapping[str, Any]] = (),
    metric: str | Mapping[str, Any] = "accuracy",
    labels: str = "data",
    outputs: Mapping[str, str | Mapping[str, Any]] | None = None,
    inputs: Mapping[str, Mapping[str, Any]] | None = None,
    stream: int | None = None,
    search: Mapping[str, Any] | None = None,
    trust: bool | None = None,
    register_as: str | None = None,
    experiment: str | None = None,
    tracking_uri: str | None = None,
    watcher: job.Watcher | None = None,
) -> job.Outcome:
    """Compress a model, register its variants, and promote the best for each target.

    Args:
        source: ``models:/name@alias``, ``runs:/…``, the path of an ``.onnx`` file, an
            ``onnx.ModelProto`` or a ``torch.nn.Module``.
        data: the evaluation rows, or a mapping with ``evaluation`` and perhaps ``calibration`` and
            ``train``.
            Rows are a path (``.npz``, ``.csv``, ``.parquet``), ``module:function``, or a mapping
            from input names to arrays of [rows, ...], or to lists of arrays that differ in shape,
            with labels under ``labels`` or ``labels.NAME``.
        recipe: the only recipe, its settings perhaps with ranges, as in ``compress.yaml``.
        recipes: several recipes; by default a few that need no calibration data.
        targets: names of shipped profiles, YAML files, or profiles written out.
        metric: name of the accuracy metric, or ``module:function``; or a mapping with ``name`` and
            perhaps ``output``, ``higher_is_better`` and ``unit``.
        labels: ``data``, or ``source`` for the source's own outputs.
        outputs: what outputs are, where that is not told rightly, as ``data.outputs`` of
            ``compress.yaml``: ``{"boxes": {"kind": "boxes", "format": "cxcywh"}}``.
        inputs: how the model takes inputs, where it cannot be told, as ``data.inputs`` of
            ``compress.yaml``: ``{"h0": {"axis": 1, "state_of": "hn"}}``.
        stream: a state begins anew every so many rows; by default only at the first.
        search: the keys of the section ``search`` of ``compress.yaml``.
        trust: False refuses a source from MLflow that is a pickle, which would run the code in it.
        register_as: registered model of the variants; by default the source's name and ``-edge``.
        experiment: MLflow experiment; by default ``register_as``.
        tracking_uri: where MLflow keeps it; by default MLflow's current one.
        watcher: is told how it goes.

    Returns:
        The outcome, with ``.trials``, ``.front`` and ``.decisions``.

    Raises:
        CompressError: what is wrong, in one line.
    """
    said = {name: dict(one) for name, one in (inputs or {}).items()}
    refs, datasets = _data(data, input_specs(said))
    plain: dict[str, Any] = {
        "source": source if isinstance(source, str) else _name(source),
        "data": {
            "metric": metric,
            "labels": labels,
            "outputs": dict(outputs or {}),
            "inputs": said,
            "stream": stream,
            **refs,
        },
        "recipe": recipe,
        "recipes": recipes,
        "targets": list(targets),
        "search": dict(search or {}),
        "trust": trust,
        "register_as": register_as,
        "experiment": experiment,
        "tracking_uri": tracking_uri,
    }
    config = parse_config({key: value for key, value in plain.items() if value is not None})
    in_memory = None if isinstance(source, str) else source
    return job.run(
        absolute_paths(config, Path.cwd()), source=in_memory, datasets=datasets, watcher=watcher
    )


def _name(source: Any) -> str:
    """Name a model in memory after its graph or its class."""
    graph = getattr(source, "graph", None)
    name = getattr(graph, "name", None)
    return name if isinstance(name, str) and name else type(source).__name__.lower()


def _data(
    data: Any, specs: Mapping[str, InputSpec]
) -> tuple[dict[str, Any], dict[str, measure.Dataset]]:
    """Split what stands for rows into references for the config and datasets in memory."""
    is_roles = isinstance(data, Mapping) and set(data) <= set(_ROLES)
    roles = data if is_roles else {"evaluation": data}
    if "evaluation" not in roles:
        raise ConfigError("data: 'evaluation' is missing; variants are scored on it")
    refs: dict[str, Any] = {}
    datasets: dict[str, measure.Dataset] = {}
    for role, rows in roles.items():
        if isinstance(rows, str | Path):
            refs[role] = str(rows)
        elif isinstance(rows, measure.Dataset):
            datasets[role], refs[role] = rows, _IN_MEMORY
        elif isinstance(rows, Mapping):
            datasets[role] = measure.dataset_of(rows, role, specs)
            refs[role] = _IN_MEMORY
        else:
            raise ConfigError(
                f"data.{role}: must be a path, module:function or a mapping from input names to "
                f"arrays, got {type(rows).__name__}"
            )
    return refs, datasets
