"""A target's latency table: what each block costs there, and what a whole network will.

The sum of a network's blocks ranks networks well and is biased (ProxylessNAS, arXiv 1812.00332,
section 3.3.1, sums a table as well): a few whole networks are measured to calibrate it. It decides
what is worth measuring; what is chosen is always measured itself.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import nnls

from mlflow_compress.errors import CompressError
from mlflow_compress.nas.blocks import Net
from mlflow_compress.nas.graph import block_onnx, empty_onnx, net_onnx
from mlflow_compress.nas.specs import BlockSpec, NetSpec
from mlflow_compress.targets import Target, Timings, measure_many
from mlflow_compress.targets.devices import Device

__all__ = ["Entry", "LatencyTable", "calibrate", "measure_nets", "measure_table", "ranks_agree"]

Entry = tuple[BlockSpec, int]
"""A block, and the height of its input."""

_AT_ONCE = 100
"""So many models are measured in one process of the device."""


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds per block on one device, for one row.

    Attributes:
        device: where it was measured.
        threads: of the runtime.
        blocks: by block and input height, what it takes beyond a call that does nothing.
        start: milliseconds of a network without blocks.
        scale: what the sum of the blocks is multiplied with.
        each: milliseconds more for each block.
    """

    device: str
    threads: int
    blocks: Mapping[Entry, float]
    start: float = 0.0
    scale: float = 1.0
    each: float = 0.0

    def block_ms(self, block: BlockSpec, size: int) -> float:
        """Return what a block takes, before calibration.

        Raises:
            CompressError: it was not measured.
        """
        found = self.blocks.get((block, size))
        if found is None:
            raise CompressError(f"the latency table of {self.device} has no {block} at {size}")
        return found

    def sum_ms(self, spec: NetSpec) -> float:
        """Return the sum of a network's blocks, before calibration."""
        return sum(self.block_ms(block, size) for block, size in spec.sized())

    def predict(self, spec: NetSpec) -> float:
        """Return the milliseconds that a network will take.

        Raises:
            CompressError: one of its blocks was not measured.
        """
        return self.start + self.scale * self.sum_ms(spec) + self.each * len(spec.blocks)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for :meth:`from_dict`."""
        rows = [{**asdict(b), "size": size, "ms": ms} for (b, size), ms in self.blocks.items()]
        own = {key: getattr(self, key) for key in ("device", "threads", "start", "scale", "each")}
        return {**own, "blocks": rows}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "LatencyTable":
        """Return the table that :meth:`to_dict` was made of."""
        blocks = {}
        for row in data["blocks"]:
            row = dict(row)
            size, ms = row.pop("size"), row.pop("ms")
            blocks[BlockSpec(**row), size] = ms
        return cls(**{**data, "blocks": blocks})


def measure_table(
    target: Target,
    entries: Iterable[Entry],
    *,
    rounds: int = 9,
    seed: int = 0,
    device: Device | None = None,
) -> LatencyTable:
    """Measure blocks where a target says, each alone, interleaved with one another.

    Args:
        target: says where and with how many threads.
        entries: the blocks; what stands there twice is measured once.
        rounds: of all of them, in an order that changes; the median counts.
        seed: seeds the order.
        device: in place of the one the target names.

    Raises:
        CompressError: a block does not run there.
        UnreachableError: the device cannot be reached.
    """
    wanted = list(dict.fromkeys(entries))
    found: dict[Entry, float] = {}
    start = 0.0
    for begin in range(0, len(wanted), _AT_ONCE):
        some = wanted[begin : begin + _AT_ONCE]
        models = [empty_onnx(1, 1), *(block_onnx(block, size) for block, size in some)]
        data = [model.SerializeToString() for model in models]
        timed = measure_many(target, data, rounds=rounds, seed=seed, device=device)
        start, *each = timed.fastest
        found |= {e: max(0.0, float(ms - start)) for e, ms in zip(some, each, strict=True)}
    return LatencyTable(target.measured_on, target.execution.threads, found, float(start))


def measure_nets(
    target: Target,
    nets: Sequence[Net],
    *,
    rounds: int = 15,
    seed: int = 0,
    device: Device | None = None,
) -> Timings:
    """Return the milliseconds of whole networks on a target, [nets], interleaved, for one row.

    The arguments and errors are those of :func:`measure_table`.
    """
    data = [net_onnx(net).SerializeToString() for net in nets]
    return measure_many(target, data, rounds=rounds, seed=seed, device=device)


def calibrate(
    table: LatencyTable, specs: Sequence[NetSpec], measured: Sequence[float]
) -> LatencyTable:
    """Fit start, scale and the cost of each block to networks that were measured.

    Non-negative least squares of relative errors, so that small networks count as much as large.

    Args:
        table: the table.
        specs: some twenty networks of it, of all sizes.
        measured: their milliseconds.
    """
    times = np.asarray(measured, dtype=np.float64)
    columns = [[1.0, table.sum_ms(spec), len(spec.blocks)] for spec in specs]
    fit, _ = nnls(np.array(columns) / times[:, None], np.ones(len(times)))
    return replace(table, start=float(fit[0]), scale=float(fit[1]), each=float(fit[2]))


def ranks_agree(predicted: Sequence[float], measured: Sequence[float]) -> float:
    """Return Spearman's rank correlation, of predicted and measured latencies for example."""
    from scipy.stats import spearmanr

    return float(spearmanr(predicted, measured).statistic)
