import numpy as np
import pytest

from mlflow_compress.errors import ConfigError, TechniqueError
from mlflow_compress.techniques import Context
from mlflow_compress.techniques.prune import PruneSettings
from mlflow_compress.techniques.prune.onnx import keep_masks, prune

WEIGHTS = ("c1.w", "c2.w", "f1.w", "f2.w")


def zeros(arrays_by_name) -> dict[str, float]:
    return {name: float((arrays_by_name[name] == 0).mean()) for name in WEIGHTS}


def test_global_scope_reaches_the_sparsity_over_all_weights_together(convnet, arrays):
    made = arrays(prune(convnet, PruneSettings(sparsity=0.75), Context()).model)
    flat = np.concatenate([made[name].ravel() for name in WEIGHTS])
    assert (flat == 0).sum() == round(0.75 * flat.size)
    assert len(set(zeros(made).values())) > 1
    original = arrays(convnet)
    kept = np.concatenate([np.abs(original[n][made[n] != 0]) for n in WEIGHTS])
    dropped = np.concatenate([np.abs(original[n][made[n] == 0]) for n in WEIGHTS])
    assert kept.min() >= dropped.max()


def test_layer_scope_reaches_the_sparsity_in_each_tensor(convnet, arrays):
    made = arrays(prune(convnet, PruneSettings(sparsity=0.5, scope="layer"), Context()).model)
    assert zeros(made) == pytest.approx(dict.fromkeys(WEIGHTS, 0.5), abs=0.01)


def test_biases_and_kept_weights_do_not_change(convnet, arrays):
    before, after = (
        arrays(convnet),
        arrays(prune(convnet, PruneSettings(sparsity=0.9), Context()).model),
    )
    for name, array in after.items():
        kept = array != 0
        np.testing.assert_array_equal(array[kept], before[name][kept])
        if name not in WEIGHTS:
            np.testing.assert_array_equal(array, before[name])


def test_excluded_tensors_are_left_alone(convnet, arrays):
    settings = PruneSettings(sparsity=0.9, exclude=("f1.w",))
    made = zeros(arrays(prune(convnet, settings, Context()).model))
    assert made["f1.w"] == 0
    assert made["c2.w"] > 0.5


def test_an_unknown_excluded_tensor_is_refused(convnet):
    with pytest.raises(ConfigError, match=r"prune\.exclude: 'f1\.v' is no weight .*'f1\.w'"):
        prune(convnet, PruneSettings(exclude=("f1.v",)), Context())


def test_a_model_without_float_weights_is_refused(build):
    from onnx import helper

    model = build(
        [helper.make_node("Relu", ["x"], ["y"])], {}, [("x", ["n", 4])], [("y", ["n", 4])]
    )
    with pytest.raises(TechniqueError, match="nothing to prune"):
        prune(model, PruneSettings(), Context())


def test_ties_give_the_exact_count():
    masks = keep_masks([np.ones((4, 5)), np.ones(10)], 0.4, "global")
    assert sum(int((~mask).sum()) for mask in masks) == 12


@pytest.mark.parametrize(("sparsity", "share"), [(0.0, 0.0), (1.0, 1.0)])
def test_the_ends_of_the_range(convnet, arrays, sparsity, share):
    made = zeros(arrays(prune(convnet, PruneSettings(sparsity=sparsity), Context()).model))
    assert set(made.values()) == {share}


@pytest.mark.parametrize("repair", [True, False])
def test_a_pattern_keeps_n_of_every_m_inputs(convnet, rows, arrays, repair):
    settings = PruneSettings(pattern="2:4", repair=repair, method="magnitude")
    made = prune(convnet, settings, Context(rows))
    held = arrays(made.model)
    for matrix in (held["c2.w"].reshape(16, -1), held["f1.w"], held["f2.w"].T):
        kept = (matrix.reshape(len(matrix), -1, 4) != 0).sum(axis=2)
        assert (kept == 2).all()
    assert made.notes == ("c1.w does not divide into groups of 4 and is kept",)
    if not repair:
        before = arrays(convnet)["f1.w"].reshape(-1, 4)
        after = held["f1.w"].reshape(-1, 4)
        np.testing.assert_array_equal(
            np.sort(np.abs(after), axis=1)[:, 2:], np.sort(np.abs(before), axis=1)[:, 2:]
        )


@pytest.mark.parametrize("pattern", ["4:2", "2:", "0:4", "two:four", "2:128"])
def test_a_wrong_pattern_is_refused(pattern):
    with pytest.raises(ConfigError, match=r"prune\.pattern must be N:M .*got '"):
        PruneSettings(pattern=pattern)


def test_a_pattern_that_fits_nothing_is_refused(convnet):
    with pytest.raises(TechniqueError, match="no weight tensor divides into groups of 61"):
        prune(convnet, PruneSettings(pattern="1:61"), Context())
