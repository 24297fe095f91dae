"""A trial: one recipe applied to the source, packed, and measured."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from hashlib import file_digest
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from threadpoolctl import threadpool_limits

from mlflow_compress import measure, packed, techniques
from mlflow_compress.errors import CompressError, TechniqueError
from mlflow_compress.records import (
    Accuracy,
    Fidelity,
    Latency,
    Output,
    Profile,
    Recipe,
    Report,
    Trial,
    Variant,
    digest_of,
    to_dict,
)
from mlflow_compress.rows import Array
from mlflow_compress.search.cache import StepCache
from mlflow_compress.search.chain import apply_chain
from mlflow_compress.search.evaluator import Evaluator, Made
from mlflow_compress.search.screen import LEVEL, DroppedError, Screen, draw_rows
from mlflow_compress.search.source import check_same
from mlflow_compress.targets import Target, measure_on, needs_of
from mlflow_compress.targets.devices import Measurement
from mlflow_compress.targets.limits import USUAL_LEVEL
from mlflow_compress.techniques import Context, RecipeResult, Subnets
from mlflow_compress.techniques.data import Epoch, TrainData
from mlflow_compress.techniques.graph.opset import raise_opset
from mlflow_compress.techniques.graph.walk import opset

__all__ = ["TrialEvaluator"]

RULE = 2
"""By which rule outputs are judged: 1 looked at the first one alone."""

_MARGINS = 2048
"""At most so many calibration rows say how sure the source is of its classes."""

_CHECKED = 64
"""So many rows are looked at when a step is checked that must not change anything."""

_VERSIONS = ("mlflow-compress", "onnx", "onnxruntime", "numpy")


@dataclass(frozen=True)
class TrialEvaluator(Evaluator):
    """Applies recipes to one source and measures the variants on the same rows.

    Attributes:
        source: the source as ONNX, normalised.
        uri: the source's URI with its version resolved.
        source_digest: sha256 of the source's ONNX bytes.
        source_bytes: bytes of the source's weights as stored.
        evaluation: the rows that variants are scored on.
        outputs: what the source's outputs are, and so how they are judged.
        calibration: the rows that techniques may look at, or None.
        train: the rows that techniques may train on, or None.
        work_dir: folder that the packed files are written to.
        metric: the accuracy metric; unused when the evaluation rows have no labels, unless it
            takes the source's outputs as labels.
        threads: latency is measured with each of these numbers of threads.
        latency_rounds: interleaved rounds per latency measurement; 0 measures none.
        seed: seed of techniques and bootstraps.
        cache: keeps what the first steps of recipes made; None keeps nothing.
        screen: tells what need not be measured to the end; None measures everything.
        checkpoints: where trainings that are broken off go on from; None keeps none.
        subnets: takes smaller networks out of the source; None when it is one network.
        timed_on: targets on whose devices every variant's latency is measured as well, because
            the search goes for it.
        level: confidence level of the drop's interval.
    """

    source: onnx.ModelProto
    uri: str
    source_digest: str
    source_bytes: int
    evaluation: measure.Dataset
    work_dir: Path
    outputs: tuple[Output, ...]
    calibration: measure.Dataset | None = None
    train: measure.Dataset | None = None
    metric: str | measure.MetricSpec = "accuracy"
    threads: tuple[int, ...] = (1,)
    latency_rounds: int = 15
    seed: int = 0
    cache: StepCache | None = None
    screen: Screen | None = None
    checkpoints: Path | None = None
    subnets: Subnets | None = None
    timed_on: tuple[Target, ...] = ()
    level: float = USUAL_LEVEL
    versions: Mapping[str, str] = field(default_factory=lambda: {n: version(n) for n in _VERSIONS})

    def key(self, recipe: Recipe) -> str:
        """Return the digest of everything that the trial's outcome depends on."""
        return digest_of(
            self._made_from
            | {
                "recipe": recipe.to_json(),
                "evaluation": self.evaluation.digest,
                "metric": self.spec.plain,
                "threads": list(self.threads),
                "latency_rounds": self.latency_rounds,
                "rule": RULE,
                "outputs": [_judged(output) for output in self.outputs],
            }
            | ({"timed_on": [t.measured_on for t in self.timed_on]} if self.timed_on else {})
            | ({"level": self.level} if self.level != USUAL_LEVEL else {})
        )

    @property
    def spec(self) -> measure.MetricSpec:
        """The accuracy metric with what is said of it."""
        return measure.MetricSpec.of(self.metric)

    @property
    def is_labelled(self) -> bool:
        """Whether there is something to score the evaluation rows by."""
        return self.evaluation.has_labels or self.spec.labels == "source"

    @cached_property
    def _made_from(self) -> dict[str, Any]:
        """What a recipe's model depends on besides the recipe, as plain data."""
        calibration, train = self.calibration, self.train
        return {
            "source": self.source_digest,
            "calibration": None if calibration is None else calibration.digest,
            "train": None if train is None else train.digest,
            "seed": self.seed,
            "versions": dict(self.versions),
        }

    def evaluate(self, recipe: Recipe, key: str) -> Made:
        """Apply, pack, measure; return the variant and the path of its packed file.

        Raises:
            CompressError: as :meth:`make`.
        """
        made = self.make(recipe, key, self.screen)
        return made._replace(variant=self.timed(made.variant, Path(made.path)))

    def make(
        self,
        recipe: Recipe,
        key: str,
        screen: Screen | None = None,
        watch: Callable[[Epoch], None] | None = None,
    ) -> Made:
        """Apply, pack, and measure all but latency.

        Args:
            recipe: what to apply.
            key: the trial's key.
            screen: tells what need not be measured to the end.
            watch: hears of every epoch of a training.

        Raises:
            TechniqueError: the recipe cannot be applied to this model, or what it made does
                not run.
            DroppedError: the screen says that no target can take it.
        """
        if screen is not None and (reason := screen.cannot_run(recipe)):
            raise DroppedError(reason, None)
        inputs: Mapping[str, np.ndarray] | None = None
        if self.calibration is not None:
            inputs = self.calibration.fed
        context = Context(
            calibration=inputs,
            seed=self.seed,
            work_dir=self.work_dir,
            train=self._train_data,
            on_epoch=watch,
            checkpoints=self.checkpoints,
            subnets=self.subnets,
        )
        # On a busy machine two BLAS threads that spin for each other take many times as long.
        with threadpool_limits(1):
            applied = apply_chain(self.source, recipe, context, self.cache, self._made_from)
        result = applied.result
        path = self.work_dir / f"{key[:16]}.onnx"
        made = packed.pack(result.model, recipe.profile)
        packed.save(made, path)
        # A portable file decodes itself: what that takes, the device's runtime must have too.
        needs = needs_of(made if recipe.profile == "portable" else result.model)
        sizes = replace(self._sizes(result, path), needs=needs)
        if screen is not None and (reason := screen.cannot_load(needs, recipe.profile)):
            raise DroppedError(reason, sizes)
        self._check_harmless(recipe, result.model)
        report = self._report(sizes, path, screen)
        variant = Variant(key, recipe, report, source=self.uri)
        return Made(variant, str(path), applied.steps, applied.reused)

    def timed(self, variant: Variant, path: Path) -> Variant:
        """Return the variant with its latency on this machine, measured against the source's.

        Args:
            variant: a variant.
            path: its packed file.
        """
        latency = tuple(self._latency(path, n) for n in self.threads if self.latency_rounds)
        report = replace(variant.report, latency=latency)
        for target in self.timed_on:
            found = self._measured_on(target, variant, path)
            report = report.with_latency(found.latency)
            report = report.with_memory(target.place, found.memory_bytes)
        if latency and latency[0].ratio_interval.low > 1:
            model = packed.unpack(path) if packed.is_packed(path) else onnx.load(path)
            slower = measure.slower_operators(
                model, self.source, self.evaluation, latency[0].threads
            )
            report = replace(report, slower=slower)
        return replace(variant, report=report)

    def at(self, folder: Path) -> "TrialEvaluator":
        """Return the same evaluator for a worker, which writes to a folder of its own.

        The cache of steps and the checkpoints stay where they are if that is a folder here too.
        """
        cache = self.cache
        if cache is not None and not cache.folder.parent.is_dir():
            cache = StepCache(folder / "steps", cache.limit)
        kept = self.checkpoints
        if kept is not None and not kept.parent.is_dir():
            kept = None
        return replace(self, work_dir=folder, cache=cache, checkpoints=kept)

    def __reduce__(self) -> Any:
        """Leave behind what was computed once: sessions cannot go to another process."""
        values = [getattr(self, item.name) for item in fields(self)]
        return type(self), tuple(values)

    def learn(self, trial: Trial) -> None:
        """Hear of a finished trial."""
        if self.screen is not None:
            self.screen.learn(trial)

    def check_source(self) -> None:
        """Run the source on the evaluation rows, before any trial depends on it.

        Raises:
            SourceError: onnxruntime does not load the source.
            DataError: the source does not run on the rows, or the labels do not fit the metric.
        """
        self._accuracy(self.source_outputs)

    def rescore(self, variant: Variant, path: Path) -> Variant:
        """Return a variant of this source with accuracy and fidelity of these evaluation rows.

        Args:
            variant: a variant that was scored on other rows.
            path: its packed file.
        """
        outputs = measure.run(packed.load(path, threads=1), self.evaluation)
        report = replace(
            variant.report,
            accuracy=self._accuracy(outputs),
            fidelity=self.fidelity(outputs),
        )
        return replace(variant, report=report)

    def fidelity(self, outputs: Mapping[str, Array]) -> Fidelity:
        """Compare a model's outputs on the evaluation rows with the source's."""
        return measure.measure_fidelity(
            outputs,
            self.source_outputs,
            self.evaluation,
            self.outputs,
            level=self.level,
            others=self._others,
        )

    def judged(self, outputs: Mapping[str, Array]) -> Report:
        """Return a report of nothing but what outputs are worth, without intervals."""
        fidelity = measure.measure_fidelity(
            outputs, self.source_outputs, self.evaluation, self.outputs, level=None
        )
        return Report(0, 0, 0.0, 0.0, "", accuracy=self._accuracy(outputs), fidelity=fidelity)

    @property
    def fixed_batch(self) -> int | None:
        """Rows per call, where the source fixes them."""
        return self.evaluation.fed.batch

    @cached_property
    def _train_data(self) -> TrainData | None:
        if self.train is None:
            return None
        return TrainData(self.train.plain("training"), self.train.labels, self.train.digest)

    @cached_property
    def _source_sessions(self) -> Mapping[int, measure.Runnable]:
        """The source in onnxruntime, by threads, on as many cores."""
        sessions = {}
        for count in {1, *self.threads}:
            with measure.pinned(count):
                sessions[count] = measure.open_session(self.source, count)
        return sessions

    @cached_property
    def source_outputs(self) -> Mapping[str, Array]:
        """The source's outputs on the evaluation rows, computed once per search."""
        return measure.run(self._source_sessions[1], self.evaluation)

    @cached_property
    def _others(self) -> Mapping[str, Array]:
        """The source's outputs that are classes on the calibration rows: how sure it is of them.

        They are the source's alone, so that rows which techniques have seen tell as much.
        """
        scored = [output.name for output in self.outputs if output.kind == "classes"]
        if self.calibration is None or not scored:
            return {}
        rows = self.calibration.head(_MARGINS)
        outputs = measure.run(self._source_sessions[1], rows)
        return {name: outputs[name] for name in scored}

    @cached_property
    def _checks(self) -> dict[str | int, str]:
        """What was found of steps that must not change anything, by profile and by opset."""
        return {}

    def _check_harmless(self, recipe: Recipe, model: onnx.ModelProto) -> None:
        """Check once that packing, and raising the opset as the recipe does, change nothing.

        Raises:
            TechniqueError: they do; names the step and the output.
        """
        version = opset(model)
        if version > opset(self.source) and version not in self._checks:
            self._checks[version] = self._harm(
                f"raising the opset to {version}", lambda: raise_opset(self.source, version)
            )
        if recipe.profile not in self._checks:
            self._checks[recipe.profile] = self._harm(
                f"packing in the {recipe.profile} profile", lambda: self._packed(recipe.profile)
            )
        for step in (version, recipe.profile):
            if self._checks.get(step):
                raise TechniqueError(self._checks[step])

    def _harm(self, step: str, change: Callable[[], onnx.ModelProto | bytes]) -> str:
        rows = self.evaluation.head(_CHECKED)
        source = {name: output[: rows.rows] for name, output in self.source_outputs.items()}
        try:
            check_same(
                source, measure.run(measure.open_session(change()), rows), self.outputs, step
            )
        except CompressError as error:
            return str(error)
        return ""

    def _packed(self, profile: Profile) -> bytes:
        """Return the source, packed and unpacked as whoever runs it does."""
        applied = techniques.apply_recipe(self.source, Recipe((), profile), techniques.Context())
        made = packed.pack(applied.model, profile)
        if profile == "portable":
            return made.SerializeToString()
        return packed.unpack(made).SerializeToString()

    def _report(self, report: Report, path: Path, screen: Screen | None) -> Report:
        """Return the report of the file's sizes with what is measured on rows."""
        session = packed.load(path, threads=1)
        if screen is not None:
            self._look(screen, report, session)
        outputs = measure.run(session, self.evaluation)
        return replace(
            report,
            accuracy=self._accuracy(outputs),
            fidelity=self.fidelity(outputs),
        )

    def _look(self, screen: Screen, report: Report, session: measure.Runnable) -> None:
        """Look at the size, then at more and more rows, and end where no target can take it."""
        if reason := screen.too_large(report):
            raise DroppedError(reason, report)
        # Intervals of other metrics are no bounds on so few rows.
        scored = self.spec.name == "accuracy" or self.spec.name.startswith("top-")
        scored = scored and self.is_labelled
        if self.evaluation.stream is not None:
            return  # its rows only run in order, all of them
        for count in screen.looks(self.evaluation.rows):
            rows = self._order[:count]
            some = self.evaluation.take(rows)
            outputs = measure.run(session, some)
            source = {name: array[rows] for name, array in self.source_outputs.items()}
            accuracy = None
            if scored:
                accuracy = measure.measure_accuracy(
                    outputs, source, some, self.metric, level=LEVEL, seed=self.seed
                )
            fidelity = measure.measure_fidelity(
                outputs, source, some, self.outputs, level=LEVEL, others=self._others
            )
            reference = self._source_score if scored else math.nan
            if reason := screen.hopeless(report, accuracy, fidelity, reference, self.read_by):
                raise DroppedError(reason, replace(report, accuracy=accuracy, fidelity=fidelity))

    @cached_property
    def read_by(self) -> tuple[str, ...] | None:
        """The outputs that the metric reads, none when it does not say so; None without labels."""
        accuracy = self._accuracy(self.source_outputs)
        return None if accuracy is None else tuple(filter(None, accuracy.output.split(", ")))

    @cached_property
    def _order(self) -> np.ndarray:
        return draw_rows(self.evaluation.rows, self.seed)

    @cached_property
    def _source_score(self) -> float:
        return measure.score(self.source_outputs, self.evaluation, self.metric)

    def _sizes(self, result: RecipeResult, path: Path) -> Report:
        """Return what the file itself says."""
        info = packed.inspect(path)
        layers = measure.layer_reports(self.source, result.model, info, result.origin)
        weights = sum(int(np.prod(layer.shape)) for layer in layers)
        bits = sum(layer.entropy * int(np.prod(layer.shape)) for layer in layers)
        with path.open("rb") as file:
            digest = file_digest(file, "sha256").hexdigest()
        size = path.stat().st_size
        return Report(
            size_bytes=size,
            source_bytes=self.source_bytes,
            rate=self.source_bytes / size,
            entropy=bits / weights if weights else 0.0,
            sha256=digest,
            layers=layers,
            stages=measure.stage_reports(self.source, result.stages, info),
        )

    def _accuracy(self, outputs: Mapping[str, Array]) -> Accuracy | None:
        if not self.is_labelled:
            return None
        return measure.measure_accuracy(
            outputs,
            self.source_outputs,
            self.evaluation,
            self.metric,
            level=self.level,
            seed=self.seed,
            kinds=self.outputs,
            others=self._others,
        )

    def _measured_on(self, target: Target, variant: Variant, path: Path) -> Measurement:
        """Measure a variant on a target's device."""
        source = self.work_dir / "source-as-timed.onnx"
        if not source.exists():
            source.write_bytes(self.source.SerializeToString())
        return measure_on(
            target,
            path,
            source,
            self.evaluation.fed.example(1),
            batch=self.fixed_batch or 1,
            compact=variant.recipe.profile == "compact",
            rounds=self.latency_rounds,
            seed=self.seed,
        )

    def _latency(self, path: Path, threads: int) -> Latency:
        with measure.pinned(threads):
            session = packed.load(path, threads=threads)
        return measure.measure_latency(
            session,
            self._source_sessions[threads],
            self.evaluation,
            rounds=self.latency_rounds,
            threads=threads,
            seed=self.seed,
        )


def _judged(output: Output) -> dict[str, Any]:
    """Return what of an output decides how it is judged, as plain data."""
    return to_dict(replace(output, reason="", is_given=False))
