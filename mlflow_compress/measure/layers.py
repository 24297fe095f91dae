"""Reports per weight tensor and per stage of a recipe."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper

from mlflow_compress.measure.entropy import entropy
from mlflow_compress.measure.size import tensor_bytes, weight_bytes
from mlflow_compress.records import LayerReport, StageReport

if TYPE_CHECKING:
    from mlflow_compress.packed import PackedInfo, TensorInfo

__all__ = ["layer_reports", "natural_bytes", "stage_reports"]

_STAGE_NAMES = {
    "prune": "pruned",
    "quantize": "quantized",
    "share": "shared",
    "fold": "folded",
    "separable": "separated",
    "shrink": "shrunk",
}
_WEIGHT_TYPES = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.DOUBLE,
    TensorProto.BFLOAT16,
    TensorProto.INT8,
    TensorProto.UINT8,
)
_GAP_BITS = 8
"""Bits of one relative index in the sparse storage that stages are counted in."""


def layer_reports(
    source: ModelProto,
    variant: ModelProto,
    packed: "PackedInfo",
    origin: Mapping[str, str],
) -> tuple[LayerReport, ...]:
    """Return one report per weight tensor of the source, in the order it stores them.

    The bytes are those of every tensor that came of it (values, scales, zero points), the other
    numbers those of the largest one. Tensors that a technique removed have no report.

    Args:
        source: the source, normalised.
        variant: the model after the last step, before packing.
        packed: what :func:`mlflow_compress.packed.inspect` says of the packed file.
        origin: the source tensor of each initializer that the source does not have.
    """
    stored = {info.name: info for info in packed.tensors}
    parts: dict[str, list[TensorInfo]] = defaultdict(list)
    for tensor in variant.graph.initializer:
        if tensor.name in stored:
            parts[origin.get(tensor.name, tensor.name)].append(stored[tensor.name])
    return tuple(
        _layer(tensor, parts[tensor.name])
        for tensor in source.graph.initializer
        if _is_weight(tensor) and parts.get(tensor.name)
    )


def stage_reports(
    source: ModelProto,
    stages: Sequence[tuple[str, ModelProto]],
    packed: "PackedInfo",
) -> tuple[StageReport, ...]:
    """Return the model's size, sparsity and entropy after each stage, packing last.

    Args:
        source: the source, normalised.
        stages: the model before the first step and after each one, with the techniques' names.
        packed: what :func:`mlflow_compress.packed.inspect` says of the packed file.
    """
    before = weight_bytes(source)
    reports: list[StageReport] = []
    for index, (name, model) in enumerate(stages):
        size = before if index == 0 else sum(map(natural_bytes, model.graph.initializer))
        text = _STAGE_NAMES.get(name, name)
        reports.append(_stage(f"+ {text}" if index > 1 else text, model, size, before))
    last = stages[-1][1]
    return (*reports, _stage("+ Huffman", last, packed.file_bytes, before))


def natural_bytes(tensor: TensorProto) -> int:
    """Return the bytes of a tensor in the plainest storage that uses its structure.

    The least of: its values as they are; a codebook and indices of equal width; and, of the
    values that are not zero, either one with an 8-bit relative index each.
    """
    raw = tensor_bytes(tensor)
    if not _is_weight(tensor):
        return raw
    values = numpy_helper.to_array(tensor).ravel()
    width = values.dtype.itemsize * 8
    kept = values[values != 0]
    distinct, distinct_kept = np.unique(values).size, np.unique(kept).size
    bits = [
        values.size * _index_bits(distinct) + distinct * width,
        kept.size * (width + _GAP_BITS),
        kept.size * (_index_bits(distinct_kept) + _GAP_BITS) + distinct_kept * width,
    ]
    return min(raw, *((count + 7) // 8 for count in bits))


def _layer(tensor: TensorProto, parts: "list[TensorInfo]") -> LayerReport:
    main = max(parts, key=lambda info: (math.prod(info.shape), info.bytes_before))
    count = math.prod(tensor.dims)
    spent = sum(info.bytes_after for info in parts)
    return LayerReport(
        name=tensor.name,
        shape=tuple(tensor.dims),
        dtype=main.dtype,
        encoding=main.encoding,
        source_bytes=tensor_bytes(tensor),
        packed_bytes=spent,
        sparsity=main.sparsity,
        distinct=main.distinct,
        entropy=main.entropy,
        bits_spent=8 * spent / count,
    )


def _stage(name: str, model: ModelProto, size: int, before: int) -> StageReport:
    arrays = [numpy_helper.to_array(t) for t in model.graph.initializer if _is_weight(t)]
    total = sum(array.size for array in arrays) or 1
    return StageReport(
        name=name,
        bytes=size,
        rate=before / size if size else float("inf"),
        sparsity=sum(int((array == 0).sum()) for array in arrays) / total,
        entropy=sum(entropy(array) * array.size for array in arrays) / total,
    )


def _is_weight(tensor: TensorProto) -> bool:
    """Whether a tensor holds weights: numbers of a weight's type, more than a scalar."""
    return tensor.data_type in _WEIGHT_TYPES and math.prod(tensor.dims) > 1


def _index_bits(count: int) -> int:
    return max(1, (max(count, 1) - 1).bit_length())
