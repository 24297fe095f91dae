"""Exports PyTorch modules to ONNX, quietly, and checks the result against PyTorch."""

import inspect
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import numpy as np
import onnx
import torch

from mlflow_compress.base.spelling import closest
from mlflow_compress.errors import DataError, SourceError, TechniqueError
from mlflow_compress.techniques.graph.running import run, session

__all__ = ["export_torch", "quiet_export"]

Inputs = np.ndarray | Mapping[str, np.ndarray] | Sequence[np.ndarray]

_TOLERANCE = 1e-4
"""Largest allowed difference between PyTorch's and onnxruntime's outputs, relative to the
largest output: float32 sums in another order stay two orders of magnitude below it."""

_STEPS = 16
"""Steps of the last bit that sums of half numbers may be off by, relative to the largest output."""

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")

_LOGGERS = ("torch", "torch.onnx", "torch.export", "onnxscript", "onnx_ir")


def export_torch(
    module: torch.nn.Module,
    example_inputs: Inputs,
    *,
    input_names: Sequence[str] | None = None,
    check: bool = True,
) -> onnx.ModelProto:
    """Export a module in evaluation mode; the first axis of every input is an open batch axis.

    Takes class instances and the graph modules that ``mlflow.pytorch.load_model`` makes of pt2
    files. The module's training flag is put back afterwards.

    Args:
        module: what to export.
        example_inputs: rows of [batch, ...] to trace with and to check on, at least two: one
            array, a sequence in the order of ``forward``, or a mapping from input names: those
            that ``forward`` has, in any order, or others in its order.
        input_names: names of the inputs in the model, in order; taken from the mapping when
            there is one, otherwise ``input`` or ``input_0``, ``input_1`` ….
        check: compare onnxruntime's outputs with PyTorch's on the example rows.

    Raises:
        DataError: fewer than two example rows, or some inputs are named like parameters of
            ``forward`` and others are not.
        SourceError: the module does not run on the rows, PyTorch cannot export it, onnxruntime
            does not run what it exports, or the exported model's outputs differ.
    """
    arrays, names = _inputs(_in_order(module, example_inputs), input_names)
    tensors = tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)
    was_training = module.training
    _set_training(module, False)
    try:
        with quiet_export(), torch.no_grad():
            expected = _run(module, tensors)
            model = _export(module, tensors, names)
    finally:
        _set_training(module, was_training)
    if check:
        _compare(model, dict(zip(names, arrays, strict=True)), expected)
    return model


def _in_order(module: torch.nn.Module, example: Inputs) -> Inputs:
    """Return named inputs in the order in which ``forward`` takes them.

    A single input is the first one's whatever it is called.

    Raises:
        DataError: some names are those of parameters and others are not, or one that has no
            default is missing.
    """
    if not isinstance(example, Mapping) or len(example) < 2:
        return example
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):  # code that is not Python's
        return example
    taken = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    known = [one.name for one in taken]
    if not set(example) & set(known):
        return example
    strange = next((name for name in example if name not in known), None)
    if strange is not None:
        raise DataError(
            f"forward takes {', '.join(known)}, the data have {', '.join(example)}: input "
            f"{strange!r} is none of them{closest(strange, known)}"
        )
    count = max(known.index(name) for name in example) + 1
    missing = next((name for name in known[:count] if name not in example), None)
    if missing is not None:
        raise DataError(
            f"forward takes {', '.join(known)}, the data have {', '.join(example)}: {missing!r} is "
            "missing, and inputs after it cannot be given without it"
        )
    return {name: example[name] for name in known[:count]}


def _inputs(
    example: Inputs, input_names: Sequence[str] | None
) -> tuple[list[np.ndarray], list[str]]:
    if isinstance(example, Mapping):
        arrays, names = list(example.values()), list(example)
    else:
        arrays = [example] if isinstance(example, np.ndarray) else list(example)
        names = ["input"] if len(arrays) == 1 else [f"input_{i}" for i in range(len(arrays))]
    if not arrays or any(len(array) < 2 for array in arrays):
        raise DataError("exporting needs at least two example rows, to find the batch axis")
    return arrays, list(input_names) if input_names else names


def _export(
    module: torch.nn.Module, tensors: tuple[torch.Tensor, ...], names: list[str]
) -> onnx.ModelProto:
    batch = torch.export.Dim("batch")
    try:
        program = torch.onnx.export(
            module,
            tensors,
            dynamo=True,
            external_data=False,
            dynamic_shapes=tuple({0: batch} for _ in tensors),
            input_names=names,
            verbose=False,
        )
    except Exception as error:
        raise SourceError(f"PyTorch cannot export the module to ONNX: {_cause(error)}") from error
    model: onnx.ModelProto = program.model_proto
    return model


def _run(module: torch.nn.Module, tensors: tuple[torch.Tensor, ...]) -> object:
    try:
        return module(*tensors)
    except Exception as error:
        shapes = ", ".join(f"{list(tensor.shape)} {tensor.dtype}" for tensor in tensors)
        raise SourceError(
            f"the module does not run on the example rows ({shapes}): {_cause(error)}"
        ) from error


def _cause(error: BaseException) -> str:
    """Return what began it, in one line: the exporter's own text is advice in colours."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = _COLOURS.sub("", str(error))
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _compare(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray], expected: object) -> None:
    wanted, names = _leaves(expected), [value.name for value in model.graph.output]
    try:
        got = run(session(model), names, inputs)
    except TechniqueError as error:
        raise SourceError(f"onnxruntime does not run what PyTorch exported: {error}") from error
    if len(wanted) != len(got):
        raise SourceError(
            f"the exported model has {len(got)} outputs ({', '.join(names)}), the module gives "
            f"{len(wanted)} tensors"
        )
    for name, tensor, output in zip(names, wanted, got, strict=True):
        reference = tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy()
        if not tensor.is_floating_point():
            differ = int((np.asarray(output) != reference).sum())
            if differ:
                raise SourceError(
                    f"the exported model's output {name!r} differs from PyTorch's in {differ} of "
                    f"{reference.size} values"
                )
            continue
        scale = max(1.0, float(np.abs(reference).max(initial=0.0)))
        allowed = scale * max(_TOLERANCE, _STEPS * torch.finfo(tensor.dtype).eps)
        worst = float(np.abs(np.asarray(output, np.float32) - reference).max(initial=0.0))
        if not worst <= allowed:
            raise SourceError(
                f"the exported model's output {name!r} differs from PyTorch's by {worst:.3g} "
                f"(allowed: {allowed:.3g})"
            )


def _leaves(value: object) -> list[torch.Tensor]:
    """Return the tensors of what a module gives, in the exporter's order; None is no output."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in _leaves(item)]
    return []


def _set_training(module: torch.nn.Module, mode: bool) -> None:
    """Switch the mode; modules out of ``torch.export`` are fixed in theirs and refuse."""
    try:
        module.train(mode)
    except NotImplementedError:
        return


@contextmanager
def quiet_export() -> Iterator[None]:
    """Keep PyTorch's export warnings, log lines and prints from the user's terminal."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    loggers += [
        log
        for name, log in logging.root.manager.loggerDict.items()
        if isinstance(log, logging.Logger) and name.startswith(_LOGGERS)
    ]
    levels = [(log, log.level) for log in loggers]
    for log in loggers:
        log.setLevel(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in levels:
            log.setLevel(level)
