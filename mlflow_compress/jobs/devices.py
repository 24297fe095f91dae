"""What a search cannot measure: latency and memory on the devices of the targets.

It comes after the search, on the variants that pass every other gate, so that a device is asked
for no more than it has to be. What was measured once is kept with the trial.
"""

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from mlflow_compress.errors import CompressError, ConfigError, UnreachableError
from mlflow_compress.measure import usable_cores
from mlflow_compress.records import Report, Trial, Variant
from mlflow_compress.registry import check
from mlflow_compress.targets import (
    DeviceFacts,
    Target,
    bound_of,
    device_for,
    is_limited,
    loads_opset,
    measure_memory,
    measure_on,
    needs_of,
    read_facts,
    verify,
)

__all__ = ["Devices"]

_MEASURED_THERE = {"latency_p50", "latency_p95", "memory", "objective"}
"""Gates that what is measured here decides; a variant that fails another one is not measured."""


@dataclass
class Devices:
    """The devices of a job's targets.

    Attributes:
        targets: the edge targets.
        rounds: interleaved rounds per latency measurement; 0 measures memory alone.
        seed: seeds order and bootstrap.
        tell: hears what goes on, in one line each.
        problems: by target, what went wrong on its device.
        silent: the targets for which nothing could be measured on their device.
    """

    targets: Sequence[Target]
    rounds: int
    seed: int
    tell: Callable[[str], None]
    problems: dict[str, str] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    _verified: set[str] = field(default_factory=set)
    _lost: dict[str, str] = field(default_factory=dict)

    def verify(self) -> None:
        """Compare each profile with its device, before anything is searched.

        A device that does not answer is tried again after the search.

        Raises:
            ConfigError: a device contradicts its profile.
        """
        for target in self.targets:
            if target.place.is_local:
                verify(target, _here())
                continue
            try:
                self._verify(target)
            except UnreachableError as error:
                self.tell(f"{error} (it is tried again after the search)")

    def _verify(self, target: Target) -> None:
        if target.name not in self._verified:
            device = device_for(target.measured_on)
            verify(target, read_facts(device))
            opset = target.execution.opset
            refusal = "" if opset is None else loads_opset(device, opset)
            if refusal:
                raise ConfigError(
                    f"target {target.name!r} on {target.measured_on}: execution.opset is {opset}, "
                    f"its onnxruntime says: {refusal}"
                )
            self._verified.add(target.name)

    def measure(
        self,
        trials: Sequence[Trial],
        rows: str,
        file_of: Callable[[Trial], Path],
        source: Callable[[], Path],
        inputs: Mapping[str, Any],
        batch: int | None = None,
    ) -> tuple[Trial, ...]:
        """Measure the variants that may win where the targets run.

        Args:
            trials: all of a search; those without a variant stay as they are.
            rows: digest of the evaluation rows.
            file_of: returns a trial's packed file.
            source: returns the source's ONNX file.
            inputs: one call's, by input name.
            batch: the rows that it has; the length of the first input when None.

        Returns:
            The trials, with what was measured now and before.

        Raises:
            ConfigError: a device contradicts its profile.
        """
        done = list(trials)
        for target in self.targets:
            if is_limited(target):
                done = [_with_needs(trial, file_of) for trial in done]
            if target.place.is_local and bound_of(target, "memory") is None:
                continue
            self._measure_for(target, done, rows, file_of, source, inputs, batch)
        return tuple(done)

    def _measure_for(
        self,
        target: Target,
        done: list[Trial],
        rows: str,
        file_of: Callable[[Trial], Path],
        source: Callable[[], Path],
        inputs: Mapping[str, Any],
        batch: int | None = None,
    ) -> None:
        """Measure for one target; put the new reports into ``done``."""
        candidates = [
            index for index, trial in enumerate(done) if _may_win(trial.variant, target, rows)
        ]
        missing = [index for index in candidates if self._lacks(done[index].variant, target)]
        measured = len(candidates) - len(missing)
        for number, index in enumerate(missing):
            trial = done[index]
            if target.measured_on in self._lost:
                break
            self.tell(
                f"measuring on {target.measured_on}: {trial.recipe.label} "
                f"({number + 1} of {len(missing)})"
            )
            try:
                if not target.place.is_local:
                    self._verify(target)
                done[index] = self._measured(trial, target, file_of(trial), source, inputs, batch)
            except UnreachableError as error:
                self._lost[target.measured_on] = str(error)
            except CompressError as error:
                if target.name not in self._verified and not target.place.is_local:
                    raise
                self.problems[target.name] = f"{trial.recipe.label}: {error}"
                measured += 1  # it was reached; the variant is what failed
            else:
                measured += 1
        if missing and target.measured_on in self._lost:
            self.problems[target.name] = self._lost[target.measured_on]
            if not measured:
                self.silent.add(target.name)

    def _lacks(self, variant: Variant | None, target: Target) -> bool:
        if variant is None:
            return False
        report = variant.report
        if target.place.is_local:
            return report.memory_bytes is None
        timed = not self.rounds or report.latency_at(target.place) is not None
        return not timed or all(one.place != target.place for one in report.memory)

    def _measured(
        self,
        trial: Trial,
        target: Target,
        file: Path,
        source: Callable[[], Path],
        inputs: Mapping[str, Any],
        batch: int | None = None,
    ) -> Trial:
        assert trial.variant is not None
        report, compact = trial.variant.report, trial.recipe.profile == "compact"
        if target.place.is_local or not self.rounds:
            peak = measure_memory(target, file, inputs, compact=compact)
        else:
            found = measure_on(
                target,
                file,
                source(),
                inputs,
                batch=batch,
                compact=compact,
                rounds=self.rounds,
                seed=self.seed,
            )
            peak = found.memory_bytes
            report = report.with_latency(found.latency)
        return _with_report(trial, report.with_memory(target.place, peak))


def _here() -> DeviceFacts:
    """What is known of this machine without starting a process."""
    return DeviceFacts(
        platform.machine(),
        platform.system(),
        platform.python_version(),
        onnxruntime.__version__,
        usable_cores(),
        None,
    )


def _may_win(variant: Variant | None, target: Target, rows: str) -> bool:
    """Whether a variant passes every gate that is not measured on the device."""
    if variant is None:
        return False
    return all(gate.passed or gate.name in _MEASURED_THERE for gate in check(variant, target, rows))


def _with_needs(trial: Trial, file_of: Callable[[Trial], Path]) -> Trial:
    """Fill in what a variant needs of a runtime, for trials from before it was recorded."""
    if trial.variant is None or trial.variant.report.needs is not None:
        return trial
    from mlflow_compress import packed

    model = onnx.load(file_of(trial))
    if trial.recipe.profile == "compact":
        model = packed.unpack(model)
    return _with_report(trial, replace(trial.variant.report, needs=needs_of(model)))


def _with_report(trial: Trial, report: Report) -> Trial:
    assert trial.variant is not None
    return replace(trial, variant=replace(trial.variant, report=report))
