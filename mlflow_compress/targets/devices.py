"""Where a target is measured: this machine, a host over ssh, or whatever a command reaches.

The measuring script goes with the files, over ``transport``, and leaves nothing behind.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_compress.errors import CompressError, UnreachableError
from mlflow_compress.measure import drift_of
from mlflow_compress.measure.intervals import median_interval
from mlflow_compress.records import Latency
from mlflow_compress.targets.facts import DeviceFacts, to_facts, verify
from mlflow_compress.targets.profile import Target
from mlflow_compress.targets.transport import (
    CommandDevice,
    Device,
    LocalDevice,
    SshDevice,
    ask,
    device_for,
)

__all__ = [
    "CommandDevice",
    "Device",
    "DeviceFacts",
    "LocalDevice",
    "Measurement",
    "SshDevice",
    "Timings",
    "device_for",
    "loads_opset",
    "measure_many",
    "measure_memory",
    "measure_on",
    "read_facts",
    "verify",
]

_PROBE = Path(__file__).with_name("probe.py")


@dataclass(frozen=True)
class Measurement:
    """What was measured on a device: latency beside the source's, and peak memory."""

    latency: Latency
    memory_bytes: int


@dataclass(frozen=True)
class Timings:
    """Milliseconds of many models measured together, [models]: medians over the rounds.

    Attributes:
        fastest: of each round's fastest call, which is what compares models best.
        typical: of each round's median call, which is what a limit on p50 is about.
    """

    fastest: np.ndarray
    typical: np.ndarray


def read_facts(device: Device, *, timeout: float = 60.0) -> DeviceFacts:
    """Ask a device what it is.

    Raises:
        UnreachableError: it cannot be reached, has no Python with onnxruntime, or its answer
            is not one of the measuring script.
    """
    answer = ask(device, _PROBE, {}, ["facts"], timeout)
    try:
        return to_facts(answer)
    except ValueError as error:
        raise _odd(device, error) from None


def measure_on(  # noqa: PLR0913 - two models, one call, how to time it
    target: Target,
    variant: str | Path,
    source: str | Path,
    inputs: Mapping[str, np.ndarray],
    *,
    batch: int | None = None,
    compact: bool = False,
    rounds: int = 15,
    seed: int = 0,
    timeout: float = 300.0,
    device: Device | None = None,
) -> Measurement:
    """Measure a variant where its target says, interleaved with the source.

    Args:
        target: says where, with how many threads, and within which memory.
        variant: the packed file.
        source: the source's ONNX file.
        inputs: one batch for each call, by input name.
        batch: the rows that it has, for the record; the length of the first input when None.
        compact: the variant is in the compact profile, which needs this project's runtime.
        rounds: rounds of both models, in an order that changes.
        seed: seeds the order and the bootstrap.
        timeout: seconds for each of the two tasks, time and memory.
        device: in place of the one the target names.

    Raises:
        CompressError: the device cannot run the variant; the message has its error.
        UnreachableError: the device cannot be reached, is too slow, or dies, three times.
    """
    device = device if device is not None else device_for(target.measured_on)
    files = _files(variant, inputs) | {"source.onnx": Path(source).read_bytes()}
    told = json.dumps(_settings(target, compact) | {"rounds": rounds, "seed": seed})
    arguments = ["time", "variant.onnx", "source.onnx", "inputs.npz", told]
    spent = ask(device, _PROBE, files, arguments, timeout)
    _refuse(spent, device)
    batch = len(next(iter(inputs.values()))) if batch is None else batch
    times = {
        "fastest": _milliseconds(spent, "fastest", (rounds, 2), device),
        "variant": _milliseconds(spent, "variant", (None,), device),
        "source": _milliseconds(spent, "source", (None,), device),
    }
    latency = _latency(times, device.name, target.execution.threads, batch, seed)
    peak = measure_memory(target, variant, inputs, compact=compact, timeout=timeout, device=device)
    return Measurement(latency, peak)


def measure_many(
    target: Target,
    models: Sequence[bytes],
    *,
    rounds: int = 15,
    seed: int = 0,
    timeout: float = 600.0,
    device: Device | None = None,
) -> Timings:
    """Measure many float models with one input batch of noise each, interleaved, in one process.

    Args:
        target: says where, with how many threads, and within which memory.
        models: ONNX models with their weights.
        rounds: rounds of all models, in an order that changes.
        seed: seeds the order and the noise.
        timeout: seconds for all of it.
        device: in place of the one the target names.

    Raises:
        CompressError: the device cannot run one of them; the message has its error.
        UnreachableError: the device cannot be reached, is too slow, or dies, three times.
    """
    device = device if device is not None else device_for(target.measured_on)
    files = {f"{index}.onnx": data for index, data in enumerate(models)}
    files["inputs.npz"] = _npz({"none": np.zeros(1, np.float32)})
    asked = {"rounds": rounds, "seed": seed, "models": len(models)}
    told = json.dumps(_settings(target, compact=False) | asked)
    answer = ask(device, _PROBE, files, ["many", "-", "-", "inputs.npz", told], timeout)
    _refuse(answer, device)
    shape = (rounds, len(models))
    fastest, typical = (
        np.median(_milliseconds(answer, key, shape, device), axis=0)
        for key in ("fastest", "typical")
    )
    return Timings(fastest, typical)


def measure_memory(
    target: Target,
    variant: str | Path,
    inputs: Mapping[str, np.ndarray],
    *,
    compact: bool = False,
    timeout: float = 300.0,
    device: Device | None = None,
) -> int:
    """Return the peak resident bytes of a fresh process that opens a variant and runs it.

    The arguments and errors are those of :func:`measure_on`.
    """
    device = device if device is not None else device_for(target.measured_on)
    told = json.dumps(_settings(target, compact))
    arguments = ["memory", "variant.onnx", "-", "inputs.npz", told]
    answer = ask(device, _PROBE, _files(variant, inputs), arguments, timeout)
    _refuse(answer, device)
    return _peak(answer, device)


def _settings(target: Target, compact: bool) -> dict[str, Any]:
    """What the measuring script has to know of a target."""
    here = target.place.is_local
    settings: dict[str, Any] = {
        "threads": target.execution.threads,
        "providers": list(target.execution.providers),
        "compact": compact,
        "pin": here,
    }
    if here and target.execution.memory_bytes is not None:
        settings["memory_limit"] = target.execution.memory_bytes
    return settings


def _files(variant: str | Path, inputs: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    return {"variant.onnx": Path(variant).read_bytes(), "inputs.npz": _npz(inputs)}


def _refuse(answer: Mapping[str, Any], device: Device) -> None:
    if "error" in answer:
        raise CompressError(f"{device.name} cannot run the variant: {str(answer['error'])[:300]}")


def _odd(device: Device, problem: object) -> UnreachableError:
    return UnreachableError(
        f"device {device.name}: what it answered is not the measuring script's answer: {problem}"
    )


def _peak(answer: Mapping[str, Any], device: Device) -> int:
    peak = answer.get("peak")
    if not isinstance(peak, int) or isinstance(peak, bool) or peak <= 0:
        raise _odd(device, _wrong(answer, "peak"))
    return peak


def _milliseconds(
    answer: Mapping[str, Any], key: str, shape: tuple[int | None, ...], device: Device
) -> np.ndarray:
    """Return the answer's seconds as milliseconds; None in ``shape`` is any number but 0."""
    try:
        seconds = np.asarray(answer[key], dtype=np.float64)
    except (KeyError, ValueError, TypeError):
        raise _odd(device, _wrong(answer, key)) from None
    fits = seconds.ndim == len(shape) and all(
        found > 0 if wanted is None else found == wanted
        for found, wanted in zip(seconds.shape, shape, strict=True)
    )
    if not fits or not np.all(np.isfinite(seconds) & (seconds > 0)):
        raise _odd(device, _wrong(answer, key))
    return seconds * 1e3


def _wrong(answer: Mapping[str, Any], key: str) -> str:
    return f"{key!r} is {str(answer[key])[:80]!r}" if key in answer else f"{key!r} is missing"


def loads_opset(device: Device, opset: int, *, timeout: float = 60.0) -> str:
    """Run a network of one node and of this opset on a device.

    Returns:
        What its onnxruntime says against it, or nothing.

    Raises:
        UnreachableError: the device cannot be reached.
    """
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    node = helper.make_node("Relu", ["x"], ["y"])
    graph = helper.make_graph([node], "probe", values[:1], values[1:])
    # The intermediate representation of ONNX 1.2: what is asked about is the opset.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=3)
    feed = {"x": np.zeros(1, np.float32)}
    files = {"variant.onnx": model.SerializeToString(), "inputs.npz": _npz(feed)}
    told = json.dumps({"threads": 1})
    answer = ask(
        device, _PROBE, files, ["memory", "variant.onnx", "-", "inputs.npz", told], timeout
    )
    if "error" not in answer:
        _peak(answer, device)
    return str(answer.get("error", ""))


def _npz(inputs: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **dict(inputs))  # type: ignore[arg-type]
    return buffer.getvalue()


def _latency(
    spent: Mapping[str, np.ndarray], device: str, threads: int, batch: int, seed: int
) -> Latency:
    """Return the latency of milliseconds: fastest [rounds, 2], variant and source [calls]."""
    fastest = spent["fastest"]
    ratios = fastest[:, 0] / fastest[:, 1]
    interval = median_interval(ratios, level=0.95, seed=seed)
    p50, p95 = np.quantile(spent["variant"], [0.5, 0.95])
    return Latency(
        device=device,
        threads=threads,
        batch=batch,
        p50=float(p50),
        p95=float(p95),
        source_p50=float(np.median(spent["source"])),
        ratio=float(np.median(ratios)),
        ratio_interval=interval,
        drift=drift_of(fastest[:, 1]),
    )
