"""The tables of "Deep Compression" for one compressed model; see ``deep_compression.py``."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import ModelProto, numpy_helper

from mlflow_compress import packed


def layer_rows(
    source: ModelProto, model: ModelProto, origin: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Return what each weight tensor of the source came to, as in tables 4 and 5 of the paper.

    ``kept`` counts what is not zero, against the source's weights. Bits are per kept weight:
    ``value_bits`` for the number of a shared value, ``index_bits`` for the gap to the weight
    before at the best fixed width (fillers included); ``…_huffman`` are their entropies. Bytes
    are what the packed file spends on the tensor, tables, shape and checksums included.
    """
    left = {origin.get(t.name, t.name): t for t in model.graph.initializer}
    spent = {info.name: info.bytes_after for info in packed.inspect(packed.pack(model)).tensors}
    rows = []
    for tensor in source.graph.initializer:
        if tensor.name not in left or numpy_helper.to_array(tensor).dtype.kind != "f":
            continue
        now = left[tensor.name]
        array = numpy_helper.to_array(now).ravel()
        kept = np.flatnonzero(array)
        gaps = np.diff(kept, prepend=-1) - 1
        values = len(np.unique(array[kept]))
        weights = int(np.prod(tensor.dims))
        rows.append(
            {
                "layer": tensor.name,
                "weights": weights,
                "kept": len(kept),
                "values": values,
                "value_bits": math.ceil(math.log2(max(2, values))),
                "value_bits_huffman": entropy(array[kept]),
                "index_bits": fixed_width(gaps),
                "index_bits_huffman": entropy(gaps),
                "bytes": spent[now.name],
                "rate": 4 * weights / spent[now.name],
            }
        )
    return rows


def entropy(values: np.ndarray) -> float:
    """Return the entropy of how often each value occurs, in bits per value."""
    if not len(values):
        return 0.0
    _, counts = np.unique(values, return_counts=True)
    share = counts / counts.sum()
    return float(-(share * np.log2(share)).sum())


def fixed_width(gaps: np.ndarray) -> float:
    """Return the bits per gap at the best fixed width.

    As in section 2 of the paper, a gap that is too long for the width costs a filler each time.
    """
    if not len(gaps):
        return 0.0
    costs = [width * (1 + (gaps // (2**width - 1)).mean()) for width in range(1, 17)]
    return float(min(costs))


def show(result: Mapping[str, Any]) -> None:
    """Print one variant's tables."""
    print(
        f"{result['net']} {result['variant']} seed {result['seed']}: {result['rate']:.1f}x, "
        f"{result['bytes']:,} bytes, test error {result['test_error']:.2f} % (source "
        f"{result['source_error']:.2f} %; wanted {result['wanted_rate']:g}x at "
        f"{result['wanted_error']} %), {result['cpu_seconds']:.0f} CPU seconds"
    )
    print("  stage              kept    bytes     rate   held-out error")
    for row in result["stages"]:
        print(
            f"  {row['stage']:14s} {100 * row['kept']:6.2f}% {row['bytes']:9,} "
            f"{row['rate']:7.1f}x {row['validation_error']:7.2f} %"
        )
    print("  layer           weights    kept   bits  +Huffman  index  +Huffman   bytes    rate")
    for row in result["layers"]:
        print(
            f"  {row['layer']:14s} {row['weights']:8,} {100 * row['kept'] / row['weights']:6.2f}% "
            f"{row['value_bits']:5d} {row['value_bits_huffman']:9.2f} {row['index_bits']:6.2f} "
            f"{row['index_bits_huffman']:8.2f} {row['bytes']:8,} {row['rate']:6.1f}x",
            flush=True,
        )


def summary(results: list[dict[str, Any]]) -> None:
    """Print the mean of each variant over its seeds."""
    print("\nnet            variant  seeds   bytes    rate    test error       source   CPU s")
    for net, variant in dict.fromkeys((row["net"], row["variant"]) for row in results):
        rows = [row for row in results if (row["net"], row["variant"]) == (net, variant)]

        def mean(key: str, rows: list[dict[str, Any]] = rows) -> float:
            return float(np.mean([row[key] for row in rows]))

        spread = np.ptp([row["test_error"] for row in rows]) / 2
        print(
            f"{net:14s} {variant:8s} {len(rows):5d} {mean('bytes'):7,.0f} {mean('rate'):6.1f}x "
            f"{mean('test_error'):6.2f} ± {spread:.2f} % {mean('source_error'):8.2f} % "
            f"{mean('cpu_seconds'):7.0f}",
            flush=True,
        )
