"""Chains of steps: the same model as in one go, computed once, and a cache that may lie."""

import os
import subprocess
import sys

import numpy as np
import pytest

from mlflow_compress.errors import TechniqueError
from mlflow_compress.records import Recipe, Step
from mlflow_compress.search.cache import Entry, StepCache
from mlflow_compress.search.chain import apply_chain, step_key
from mlflow_compress.techniques import Context, apply_recipe, normalize
from tests.tiny import tiny_model

BASE = {"source": "a", "seed": 0}
RECIPES = [
    Recipe((Step("prune", {"sparsity": 0.5}), Step("share", {"clusters": 8}))),
    Recipe((Step("prune", {"sparsity": 0.5}), Step("weight_only", {"bits": 4, "method": "rtn"}))),
    Recipe((Step("prune", {"sparsity": 0.5}), Step("share", {"clusters": 8})), "portable"),
    Recipe((Step("prune", {"sparsity": 0.5, "repair": True}), Step("quantize"))),
    Recipe((Step("fold"), Step("prune"), Step("repair"), Step("share"), Step("repair"))),
    Recipe(()),
]


@pytest.fixture
def source():
    return normalize(tiny_model())


@pytest.fixture
def cache(tmp_path):
    return StepCache(tmp_path / "steps", 10**8)


@pytest.fixture
def context():
    rows = np.random.default_rng(0).normal(size=(64, 16)).astype(np.float32)
    return Context(calibration={"x": rows})


def bytes_of(model):
    return model.SerializeToString(deterministic=True)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.label)
def test_step_by_step_and_from_the_cache_give_the_same_as_in_one_go(source, cache, context, recipe):
    whole = apply_recipe(source, recipe, context)
    for reused in (0, len(recipe.steps)):
        made = apply_chain(source, recipe, context, cache, BASE)
        assert (made.steps, made.reused) == (len(recipe.steps), reused)
        assert bytes_of(made.result.model) == bytes_of(whole.model)
        assert made.result.origin == whole.origin
        assert made.result.notes == whole.notes
        assert [name for name, _ in made.result.stages] == [name for name, _ in whole.stages]
        for (_, ours), (_, theirs) in zip(made.result.stages, whole.stages, strict=True):
            assert bytes_of(ours) == bytes_of(theirs)


def test_a_common_prefix_is_computed_once(source, cache, context):
    reused = [apply_chain(source, r, context, cache, BASE).reused for r in RECIPES[:4]]
    assert reused == [0, 1, 2, 0]


def test_without_a_cache_nothing_is_reused(source, context, tmp_path):
    for _ in range(2):
        assert apply_chain(source, RECIPES[0], context, None, BASE).reused == 0
    assert list(tmp_path.iterdir()) == []


def test_whatever_the_outcome_depends_on_is_in_the_key():
    steps = (Step("prune", {"sparsity": 0.5}),)
    other = (Step("prune", {"sparsity": 0.6}),)
    keys = {step_key(BASE, steps), step_key(BASE, other), step_key({**BASE, "seed": 1}, steps)}
    assert len(keys) == 3


def test_an_error_names_the_step_and_what_came_before(source, cache):
    recipe = Recipe((Step("prune", {"sparsity": 0.5}), Step("quantize")))
    with pytest.raises(TechniqueError) as whole:
        apply_recipe(source, recipe, Context())
    with pytest.raises(TechniqueError) as chained:
        apply_chain(source, recipe, Context(), cache, BASE)
    assert str(chained.value) == str(whole.value)
    assert "step 2 'quantize' (after prune)" in str(chained.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[:40],
        lambda data: b"",
        lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:],
        lambda data: b"\0" * len(data),
    ],
)
def test_a_damaged_entry_is_dropped_and_computed_again(source, cache, context, damage):
    whole = apply_chain(source, RECIPES[0], context, cache, BASE)
    for path in cache.folder.iterdir():
        path.write_bytes(damage(path.read_bytes()))
    again = apply_chain(source, RECIPES[0], context, cache, BASE)
    assert again.reused == 0
    assert bytes_of(again.result.model) == bytes_of(whole.result.model)
    assert apply_chain(source, RECIPES[0], context, cache, BASE).reused == 2


def test_the_least_recently_used_entries_go_first(source, tmp_path):
    cache = StepCache(tmp_path, 10**8)
    a, b, c, d = (letter * 64 for letter in "abcd")
    cache.put(a, Entry(source))
    size = (tmp_path / f"{a}.step").stat().st_size
    cache.limit = 3 * size
    for age, name in enumerate((b, c)):
        cache.put(name, Entry(source))
        os.utime(tmp_path / f"{name}.step", (1000 + age, 1000 + age))
    os.utime(tmp_path / f"{a}.step", (1, 1))
    assert cache.get(a) is not None  # now it is the last one used
    cache.put(d, Entry(source))
    assert {path.stem for path in tmp_path.iterdir()} == {a, c, d}


def test_what_does_not_fit_at_all_is_not_kept(source, tmp_path):
    cache = StepCache(tmp_path / "steps", 100)
    cache.put("a", Entry(source))
    assert not (tmp_path / "steps").exists()


PART = "a" * 64 + ".{:032x}.part"


def test_files_of_writers_that_died_are_deleted_and_others_left_alone(source, cache):
    cache.folder.mkdir()
    old, young, other = (
        cache.folder / name for name in (PART.format(1), PART.format(2), "x.1.part")
    )
    for path in (old, young, other):
        path.write_bytes(b"x")
    os.utime(old, (1, 1))
    os.utime(other, (1, 1))
    cache.put("a", Entry(source))
    assert not old.exists()
    assert young.exists()
    assert other.exists()


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(source, context, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    cache = StepCache(tmp_path / "file", 10**8)
    assert apply_chain(source, RECIPES[0], context, cache, BASE).reused == 0
    assert (tmp_path / "file").read_text() == "not a folder"


WRITER = """
import sys
from pathlib import Path
from mlflow_compress.search.cache import Entry, StepCache
from tests.tiny import tiny_model
cache = StepCache(Path(sys.argv[1]), 40_000)
for number in range(150):
    key = f"{number % 13:064x}"
    found = cache.get(key)
    assert found is None or found.notes == (key,), found
    cache.put(key, Entry(tiny_model(), {}, (key,)))
"""


def test_several_processes_share_a_folder(tmp_path):
    """The limit holds eight entries of thirteen, so that all write, read and delete at once."""
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    for writer in writers:
        _, errors = writer.communicate(timeout=120)
        assert writer.returncode == 0, errors.decode()
    left = list(tmp_path.iterdir())
    assert all(path.suffix == ".step" for path in left)
    assert sum(path.stat().st_size for path in left) <= 40_000
    assert left
