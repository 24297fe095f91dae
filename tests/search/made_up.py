"""An evaluator whose numbers are made up from the recipe: trials cost nothing."""

import math

from mlflow_compress.errors import TechniqueError
from mlflow_compress.records import Accuracy, DatasetRef, Interval, Report, Variant
from mlflow_compress.search import Evaluator

ROWS = DatasetRef("rows", "0" * 64, 1000)

SPACE = [
    [
        {"prune": {"sparsity": {"low": 0.5, "high": 0.98, "step": 0.04}, "repair": True}},
        {"share": {"clusters": {"choices": [4, 8, 16, 32, 64]}}},
        {"pack": {"profile": {"choices": ["compact", "portable"]}}},
    ],
    [{"share": {"clusters": {"choices": [4, 8, 16, 32, 64]}}}],
    [{"weight_only": {"bits": {"low": 2, "high": 8}, "method": "rtn"}}],
    [],
]
"""Conditional: 13 * 5 * 2 + 5 + 7 + 1 points."""


def numbers(recipe):
    """Return a rate and an accuracy: pruning beyond 0.9 and few clusters cost dearly."""
    sparsity, bits = 0.0, 32.0
    for step in recipe.steps:
        sparsity = step.settings.get("sparsity", sparsity)
        bits = step.settings.get("bits", bits)
        bits = math.log2(step.settings["clusters"]) if "clusters" in step.settings else bits
    rate = 32 / max((1 - sparsity) * (bits + 1), 0.1)
    rate *= 0.9 if recipe.profile == "portable" else 1.0
    drop = 0.6 * max(0.0, sparsity - 0.85) ** 1.5 + 0.5 * 2.0 ** (-1.5 * bits)
    return rate, 0.98 - drop


class MadeUp(Evaluator):
    def __init__(self, fails=lambda recipe: False):
        self.recipes, self.fails = [], fails

    numbers = staticmethod(numbers)

    def key(self, recipe):
        return recipe.digest

    def evaluate(self, recipe, key):
        self.recipes.append(recipe)
        if self.fails(recipe):
            raise TechniqueError("cannot be done")
        rate, value = self.numbers(recipe)
        drop = 0.98 - value
        scored = Accuracy("accuracy", value, 0.98, drop, Interval(drop - 0.01, drop + 0.01), ROWS)
        report = Report(int(100_000 / rate), 100_000, rate, 1.0, "0" * 64, accuracy=scored)
        return Variant(key, recipe, report), "path"
