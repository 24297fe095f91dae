"""The contract of a technique."""

import dataclasses
import json
import subprocess
import sys
import typing
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from mlflow_compress import packed
from mlflow_compress.errors import CompressError, ConfigError, TechniqueError
from mlflow_compress.records import Recipe, Step
from mlflow_compress.search import Space
from mlflow_compress.techniques import Context, Phase, Technique, apply_recipe, registry
from mlflow_compress.techniques.base import Result, parse_settings, plain_settings
from mlflow_compress.techniques.data import TrainData
from mlflow_compress.testing.models import contract_model, contract_rows, weightless_model

__all__ = ["TechniqueContract"]

_HEAVY = ("mlflow", "onnx", "onnxruntime", "torch")
"""Libraries that a recipe is validated without."""


class TechniqueContract:
    """Every technique passes these cases.

    A subclass says which technique, with one fixture::

        class TestHalve(TechniqueContract):
            @pytest.fixture
            def technique(self):
                return TECHNIQUE

            bad = {"share": 2}

    Attributes:
        settings: settings, as they stand in a recipe, with which the technique works on
            ``model``; empty for the defaults.
        bad: values that the settings refuse, by key.
        refused: other settings to be refused, each with a word of the message.
        registered: whether the technique is installed, and so is found by its name.
        imports: heavy libraries that its module loads even so.
    """

    settings: ClassVar[Mapping[str, Any]] = {}
    bad: ClassVar[Mapping[str, Any]] = {}
    refused: ClassVar[tuple[tuple[Mapping[str, Any], str], ...]] = ()
    registered: ClassVar[bool] = True
    imports: ClassVar[tuple[str, ...]] = ()

    @pytest.fixture
    def technique(self) -> Technique[Any]:
        """The technique; the one fixture that a subclass must give."""
        raise NotImplementedError("give a fixture `technique`")

    @pytest.fixture
    def model(self) -> onnx.ModelProto:
        """A model that the technique can work on."""
        return contract_model()

    @pytest.fixture
    def rows(self) -> Mapping[str, np.ndarray]:
        """Inputs of the model, which also calibrate."""
        return contract_rows()

    @pytest.fixture
    def context(
        self, technique: Technique[Any], rows: Mapping[str, np.ndarray], model: onnx.ModelProto
    ) -> Context:
        """Calibration rows, and training rows where the technique needs them."""
        parsed = parse_settings(technique, self.settings)
        train = TrainData(rows, digest="contract") if technique.needs_training(parsed) else None
        return Context(calibration=rows, seed=3, train=train, source=model)

    @pytest.fixture
    def result(self, technique: Technique[Any], model: onnx.ModelProto, context: Context) -> Result:
        """What the technique makes of the model."""
        return technique.apply(model, parse_settings(technique, self.settings), context)

    def test_it_is_a_technique_with_a_name_and_a_place(self, technique: Technique[Any]) -> None:
        """The search finds it by name and knows where in a recipe it belongs."""
        assert isinstance(technique, Technique)
        assert technique.name.isidentifier()
        assert technique.name == technique.name.lower()
        assert isinstance(technique.phase, Phase)
        if self.registered:
            assert registry.get(technique.name) is technique

    def test_validating_a_recipe_imports_nothing_heavy(self, technique: Technique[Any]) -> None:
        """A configuration is checked, and help is shown, on machines that cannot compress."""
        module = type(technique).__module__
        code = (
            f"import sys, json, {module}; "
            f"print(json.dumps([n for n in {_HEAVY!r} if n in sys.modules]))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert set(json.loads(done.stdout.splitlines()[-1])) <= set(self.imports)

    def test_settings_are_frozen(self, technique: Technique[Any]) -> None:
        """Equal settings are equal recipes."""
        settings = parse_settings(technique, self.settings)
        again = parse_settings(technique, self.settings)
        assert settings == again
        assert hash(settings) == hash(again)
        for item in dataclasses.fields(settings):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(settings, item.name, getattr(settings, item.name))

    def test_settings_come_back_from_a_recipe(self, technique: Technique[Any]) -> None:
        """What is written into a recipe's JSON is what is read again."""
        parsed = parse_settings(technique, self.settings)
        plain = json.loads(json.dumps(plain_settings(parsed)))
        assert parse_settings(technique, plain) == parsed

    def test_an_unknown_setting_is_refused(self, technique: Technique[Any]) -> None:
        """A misspelt setting never counts as its default."""
        self._refuses(technique, {"no_such_setting": 1}, f"{technique.name}.no_such_setting")

    def test_a_setting_of_the_wrong_type_is_refused(self, technique: Technique[Any]) -> None:
        """The message names the setting."""
        for item in dataclasses.fields(technique.settings):
            wrong = {"not": "plain"}
            self._refuses(technique, {item.name: wrong}, f"{technique.name}.{item.name}")

    def test_a_choice_that_is_not_offered_is_refused(self, technique: Technique[Any]) -> None:
        """The message names the setting."""
        for key, hint in typing.get_type_hints(technique.settings).items():
            if typing.get_origin(hint) is Literal:
                self._refuses(technique, {key: "no such choice"}, f"{technique.name}.{key}")

    def test_bad_settings_are_refused(self, technique: Technique[Any]) -> None:
        """Values out of range, and whatever else the technique says it refuses."""
        for key, value in self.bad.items():
            self._refuses(technique, {key: value}, f"{technique.name}.{key}")
        for values, word in self.refused:
            self._refuses(technique, values, word)

    def test_its_space_holds_valid_settings(self, technique: Technique[Any]) -> None:
        """Every end of every range, and every choice, makes a recipe."""
        for key, values in technique.space.items():
            space = Space.parse([[{technique.name: {**self.settings, key: values}}]])
            assert space.dimensions_of(0)

    def test_the_model_it_is_given_is_not_changed(
        self, technique: Technique[Any], model: onnx.ModelProto, context: Context
    ) -> None:
        """Trials of a search share one source."""
        before = model.SerializeToString(deterministic=True)
        technique.apply(model, parse_settings(technique, self.settings), context)
        assert model.SerializeToString(deterministic=True) == before

    def test_the_result_is_valid_and_runs(
        self, result: Result, model: onnx.ModelProto, rows: Mapping[str, np.ndarray]
    ) -> None:
        """The checker takes it, and onnxruntime runs it, with one row too."""
        onnx.checker.check_model(result.model, full_check=True)
        session = _session(result.model)
        expected = _session(model).run(None, dict(rows))
        got = session.run(None, dict(rows))
        assert [array.shape for array in got] == [array.shape for array in expected]
        assert all(np.isfinite(array).all() for array in got if array.dtype.kind == "f")
        session.run(None, {name: array[:1] for name, array in rows.items()})

    def test_inputs_and_outputs_stay_what_they_were(
        self, result: Result, model: onnx.ModelProto
    ) -> None:
        """A variant takes the place of its source: names, types and shapes are the same."""
        assert list(result.model.graph.input) == list(model.graph.input)
        assert list(result.model.graph.output) == list(model.graph.output)

    def test_the_same_seed_gives_the_same_bytes(
        self, technique: Technique[Any], model: onnx.ModelProto, context: Context, result: Result
    ) -> None:
        """A trial is told by its key, and made again from it."""
        again = technique.apply(model, parse_settings(technique, self.settings), context)
        one, two = (made.model.SerializeToString(deterministic=True) for made in (result, again))
        assert one == two

    def test_origins_lead_from_new_tensors_to_old_ones(
        self, result: Result, model: onnx.ModelProto
    ) -> None:
        """Reports tell by them what became of each layer."""
        made = {tensor.name for tensor in result.model.graph.initializer}
        held = {tensor.name for tensor in model.graph.initializer}
        assert set(result.origin) <= made
        assert set(result.origin.values()) <= held

    def test_notes_are_single_lines(self, result: Result) -> None:
        """They stand in tables."""
        assert all(note and "\n" not in note for note in result.notes)

    def test_it_works_as_a_step_and_the_variant_packs(
        self, technique: Technique[Any], model: onnx.ModelProto, context: Context
    ) -> None:
        """What goes into the packed file comes out of it, bit for bit."""
        recipe = Recipe((Step(technique.name, dict(self.settings)),))
        made = apply_recipe(model, recipe, context).model
        again = packed.unpack(packed.pack(made, "compact").SerializeToString())
        assert {t.name: t.raw_data for t in again.graph.initializer} == {
            t.name: t.raw_data for t in made.graph.initializer
        }

    def test_it_refuses_to_work_without_the_data_that_it_needs(
        self, technique: Technique[Any], model: onnx.ModelProto, context: Context
    ) -> None:
        """And says so before it starts."""
        parsed = parse_settings(technique, self.settings)
        recipe = Recipe((Step(technique.name, dict(self.settings)),))
        if technique.needs_calibration(parsed):
            with pytest.raises(TechniqueError, match="needs calibration") as caught:
                apply_recipe(model, recipe, replace(context, calibration=None, train=None))
            assert technique.name in str(caught.value)
        if technique.needs_training(parsed):
            with pytest.raises(TechniqueError, match="needs training") as caught:
                apply_recipe(model, recipe, replace(context, train=None))
            assert technique.name in str(caught.value)

    def test_a_model_without_weights_is_refused_or_left_alone(
        self, technique: Technique[Any], context: Context
    ) -> None:
        """Never a stack trace: one line, or a model that computes the same."""
        model = weightless_model()
        recipe = Recipe((Step(technique.name, dict(self.settings)),))
        context = replace(context, calibration=contract_rows(), source=model)
        if context.train is not None:
            context = replace(context, train=TrainData(contract_rows(), digest="contract"))
        try:
            made = apply_recipe(model, recipe, context).model
        except CompressError as error:
            _one_line(error, technique.name)
            return
        rows = contract_rows(4)
        one, two = (_session(m).run(None, rows)[0] for m in (model, made))
        np.testing.assert_allclose(one, two, rtol=0.02, atol=0.05)

    def _refuses(self, technique: Technique[Any], values: Mapping[str, Any], word: str) -> None:
        with pytest.raises(ConfigError) as caught:
            parse_settings(technique, values)
        _one_line(caught.value, word)


def _one_line(error: CompressError, word: str) -> None:
    text = str(error)
    assert word in text
    assert "\n" not in text


def _session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
