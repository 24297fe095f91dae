"""Scores, measures and records subnets of one supernet for targets."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mlflow_compress import nas
from mlflow_compress.config.nas import NasConfig
from mlflow_compress.recording.nas import NasRuns
from mlflow_compress.report import shrink_figure, subnets_figure
from mlflow_compress.targets import Execution, Target, bound_of

__all__ = ["Desk", "TargetResult", "Tell"]

Tell = Callable[[str], None]

_SCORED = 2000
"""Rows held out that score the subnets which teach the predictor; finalists are scored on all that
are held out."""


@dataclass(frozen=True)
class TargetResult:
    """What was found for one target.

    Attributes:
        target: its name.
        best: the best subnet within its limits, or the nearest miss.
        fits: whether it keeps the limits, as measured.
        finalists: all that were measured, the best first.
        steps: those of the mode shrink.
    """

    target: str
    best: nas.Found
    fits: bool
    finalists: tuple[nas.Found, ...]
    steps: tuple[nas.ShrinkStep, ...] = ()


class Desk:
    """What is known of one supernet's subnets; each is scored once, each device measured once.

    Args:
        config: the configuration.
        supernet: the supernet.
        images: rows to recalibrate on, and rows held out to score on.
        runs: where it is recorded.
        tell: hears what goes on, a line each.

    Attributes:
        agreement: by target, Spearman's rank correlation of its latency table with the whole
            networks that calibrated it.
    """

    def __init__(
        self, config: NasConfig, supernet: nas.Supernet, images: nas.Images, runs: NasRuns,
        tell: Tell,
    ) -> None:  # fmt: skip
        self.config, self.supernet, self.images = config, supernet, images
        self.runs, self.tell = runs, tell
        self.space, self.net = supernet.net.space, supernet.net
        self.agreement: dict[str, float] = {}
        self._nets: dict[nas.Subnet, nas.Net] = {}
        self._scores: dict[tuple[nas.Subnet, int | None], float] = {}
        self._tables: dict[tuple[str, Execution], nas.LatencyTable] = {}
        self._predictor: nas.Predictor | None = None

    def spec(self, subnet: nas.Subnet) -> nas.NetSpec:
        """Return the network of a subnet."""
        return self.space.spec(subnet, self.net.channels, self.net.size, self.net.classes)

    def score(self, subnet: nas.Subnet, rows: int | None = None) -> float:
        """Return the accuracy of a subnet on rows held out, all or the first so many."""
        key = subnet, rows
        if key not in self._scores:
            held, labels = self.images.held[:rows], self.images.held_labels[:rows]
            self._scores[key] = nas.accuracy(self._taken(subnet), held, labels)
        return self._scores[key]

    def _taken(self, subnet: nas.Subnet) -> nas.Net:
        if subnet not in self._nets:
            rows = {self.supernet.input_name: self.images.train.numpy()}
            self._nets[subnet] = self.supernet.subnet(subnet, rows)
        return self._nets[subnet]

    def measure(self, target: Target, subnets: Sequence[nas.Subnet]) -> list[float]:
        """Return the milliseconds of subnets on a target, the median of all calls."""
        options = self.config.specialize
        nets = [self.net.take(subnet) for subnet in subnets]
        found = nas.measure_nets(target, nets, rounds=options.rounds, seed=options.seed)
        return [float(ms) for ms in found.typical]

    def table(self, run_id: str, target: Target) -> nas.LatencyTable:
        """Measure the table of a target's device once, and calibrate it on whole networks."""
        place = (target.measured_on, target.execution)
        if place in self._tables:
            return self._tables[place]
        self.tell(f"measuring the blocks on {target.measured_on}")
        options, net = self.config.specialize, self.net
        blocks = list(self.space.all_blocks(net.channels, net.size, net.classes))
        table = nas.measure_table(target, blocks, seed=options.seed)
        some = nas.spread(self.space, options.calibration, options.seed)
        times = self.measure(target, some)
        table = nas.calibrate(table, [self.spec(subnet) for subnet in some], times)
        predicted = [table.predict(self.spec(subnet)) for subnet in some]
        agreement = nas.ranks_agree(predicted, times)
        self.agreement[target.name] = agreement
        self.tell(
            f"{len(blocks)} blocks and {len(some)} networks measured on {target.measured_on}: "
            f"rank correlation {agreement:.3f}"
        )
        name = f"latency/{target.name}"
        self.runs.text(run_id, json.dumps(table.to_dict(), indent=1), f"{name}.json")
        rows = [
            {"subnet": str(s), "table_ms": p, "measured_ms": t}
            for s, p, t in zip(some, predicted, times, strict=True)
        ]
        self.runs.tables(run_id, {f"{name}-calibration.json": rows})
        self._tables[place] = table
        return table

    def predictor(self) -> nas.Predictor:
        """Score some subnets once, and learn to predict the others."""
        if self._predictor is None:
            options = self.config.specialize
            some = nas.spread(self.space, options.samples, options.seed + 1)
            self.tell(f"scoring {len(some)} subnets on rows held out")
            scores = [self.score(subnet, _SCORED) for subnet in some]
            self._predictor = nas.Predictor.fit(self.space, some, scores)
            self.tell(
                "the predictor's rank correlation, each left out in turn: "
                f"{self._predictor.agreement:.3f}"
            )
        return self._predictor

    def result(self, run_id: str, target: Target, mode: str) -> TargetResult:
        """Find a target's subnet."""
        options = self.config.specialize
        search = nas.TargetSearch(
            target,
            self.space,
            self.score,
            lambda subnets: self.measure(target, subnets),
            lambda subnet: self.spec(subnet).weights,
            self.score(self.space.subnet()),
            options.bytes_per_weight,
        )
        if mode == "shrink":
            steps = nas.shrink_path(search, options.order, lambda s: self._tell_step(target, s))
            best = next(step.found for step in reversed(steps) if step.kept)
            return TargetResult(target.name, best, search.excess(best) == 0, (best,), tuple(steps))
        table, predictor = self.table(run_id, target), self.predictor()
        evolution = nas.Evolution(options.population, options.generations, seed=options.seed)
        finalists = nas.specialize(
            search, predictor, table, lambda subnet: table.predict(self.spec(subnet)),
            evolution, options.finalists, self.tell,
        )  # fmt: skip
        best = finalists[0]
        fits = search.excess(best) == 0
        self.tell(
            f"{target.name}: {'best' if fits else 'nothing within the limits, nearest'}: "
            f"{best.subnet}: {100 * best.accuracy:.2f} %, {best.ms:.3f} ms"
        )
        return TargetResult(target.name, best, fits, tuple(finalists))

    def _tell_step(self, target: Target, step: nas.ShrinkStep) -> None:
        what = f"{step.kind} {step.bound}" if step.kind else "the largest"
        back = "" if step.kept else ", taken back: it breaks a limit of accuracy"
        self.tell(
            f"{target.name}: {what}: {100 * step.found.accuracy:.2f} %, "
            f"{step.found.ms:.3f} ms{back}"
        )

    def log(
        self, run_id: str, targets: Sequence[Target], results: Sequence[TargetResult]
    ) -> None:  # fmt: skip
        """Log tables, figures and numbers of all targets."""
        tables: dict[str, list[dict[str, Any]]] = {"subnets/subnets.json": []}
        for target, result in zip(targets, results, strict=True):
            rows = [_row(target, one) for one in result.finalists]
            if result.steps:
                rows = [_row(target, s.found) | {"shrunk": s.kind, "bound": s.bound, "kept": s.kept}
                        for s in result.steps]  # fmt: skip
                tables[f"shrink/{target.name}.json"] = rows
                figure = shrink_figure(rows, target.name, bound_of(target, "latency_p50"))
                self.runs.figure(run_id, figure, f"shrink/{target.name}.html")
            else:
                tables["subnets/subnets.json"] += rows + self._sampled(target)
            numbers = {"accuracy": result.best.accuracy, "ms": result.best.ms}
            self.runs.numbers(run_id, {f"nas.{target.name}.{k}": v for k, v in numbers.items()})
        rows = tables["subnets/subnets.json"]
        if rows:
            limits = {target.name: bound_of(target, "latency_p50") for target in targets}
            self.runs.figure(run_id, subnets_figure(rows, limits), "subnets/subnets.html")
        self.runs.tables(run_id, {file: rows for file, rows in tables.items() if rows})
        lines = [
            f"- {r.target}: `{r.best.subnet}`, {100 * r.best.accuracy:.2f} % on rows held out, "
            f"{r.best.ms:.3f} ms{'' if r.fits else ' (not within the limits)'}"
            for r in results
        ]
        self.runs.note(run_id, "\n".join(["Subnets per target:", "", *lines]))

    def _sampled(self, target: Target) -> list[dict[str, Any]]:
        """Return the subnets that taught the predictor, with the table's latency on a target."""
        table = self._tables[target.measured_on, target.execution]
        found = []
        for (subnet, rows), score in self._scores.items():
            if rows is not None:
                spec = self.spec(subnet)
                ms = table.predict(spec)
                found.append(_row(target, nas.Found(subnet, score, ms, spec.weights, False)))
        return found


def _row(target: Target, found: nas.Found) -> dict[str, Any]:
    return {"target": target.name, **asdict(found), "subnet": str(found.subnet)}
