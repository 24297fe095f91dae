"""Closeness of each output to the source's, by its kind."""

import numpy as np
import pytest

from mlflow_compress.measure import Dataset, kl_divergence, measure_fidelity
from mlflow_compress.records import DEFAULTS, MEASURES, Output
from mlflow_compress.rows import Ragged


def data(rows):
    return Dataset({"x": np.zeros((rows, 1), np.float32)})


def judged(variant, source, kind, form="", axis=None, level=None, **settings):
    output = Output("y", kind, form, axis, settings=settings)
    found = measure_fidelity(
        {"y": variant}, {"y": source}, data(len(source)), [output], level=level
    )
    (only,) = found.outputs
    return only


def softmax(z):
    return np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)


def test_every_default_limit_is_on_a_measure_that_is_measured(rng):
    """A limit on a number that is never there would fail everything, or nothing."""
    vectors = rng.normal(size=(12, 8))
    boxes = np.concatenate([rng.uniform(0, 50, (12, 4, 2)), np.full((12, 4, 2), 80.0)], axis=2)
    boxes = np.concatenate([boxes, np.full((12, 4, 1), 0.9)], axis=2)
    examples = {
        "classes": (softmax(vectors), "probabilities", 1),
        "values": (vectors, "", 1),
        "embedding": (vectors, "", 1),
        "boxes": (boxes, "xyxy", 2),
        "sequence": (rng.normal(size=(12, 6, 8)), "logits", 2),
        "state": (vectors, "", None),
    }
    for kind, (array, form, axis) in examples.items():
        same = judged(array, array, kind, form, axis, level=0.95)
        assert set(DEFAULTS[kind]) <= set(same.measures)
        assert set(DEFAULTS[kind]) <= set(same.intervals)
        assert set(same.measures) <= set(MEASURES)
        assert same.quality == pytest.approx(1.0)
        for name, bound in DEFAULTS[kind].items():
            value = same.measures[name]
            assert value <= bound if MEASURES[name].sense == "most" else value >= bound


def test_logits_and_their_probabilities_give_the_same(rng):
    logits, other = rng.normal(size=(2, 20, 5))
    plain = judged(other, logits, "classes", "logits", 1).measures
    summed = judged(softmax(other), softmax(logits), "classes", "probabilities", 1).measures
    assert plain["kl"] == pytest.approx(summed["kl"])
    assert plain["agreement"] == summed["agreement"] < 1
    p, q = softmax(logits), softmax(other)
    assert plain["kl"] == pytest.approx((p * np.log(p / q)).sum(axis=1).mean())


def test_an_interval_holds_what_was_counted(rng):
    """One change of two hundred sure rows: the smoothed bound says that it was bad luck."""
    logits = rng.normal(size=(200, 5)) * 40
    other = logits + rng.normal(size=logits.shape) * 1e-3
    first, second = logits[0].argsort()[-2:]
    logits[0, first] = logits[0, second] - 1e-4
    other[0, first] = other[0, second] + 1e-3
    found = judged(other, logits, "classes", "logits", 1, level=0.95)
    low, high = found.intervals["agreement"].low, found.intervals["agreement"].high
    assert found.measures["agreement"] == 0.995
    assert low <= 0.995 <= high


def test_one_column_is_one_class_of_two():
    made = judged(np.array([0.9, 0.2]), np.array([0.8, 0.6]), "classes", "binary").measures
    assert made["agreement"] == 0.5
    two = kl_divergence(np.array([0.2, 0.8]), np.array([0.1, 0.9]))
    other = kl_divergence(np.array([0.4, 0.6]), np.array([0.8, 0.2]))
    assert made["kl"] == pytest.approx((two + other) / 2)


def test_pixels_are_compared_along_their_class_axis(rng):
    source = rng.normal(size=(2, 3, 4, 4))
    variant = source.copy()
    variant[0, :, 0, 0] = -source[0, :, 0, 0]
    assert judged(variant, source, "classes", "logits", 1).measures["agreement"] == 31 / 32


def test_class_numbers_and_texts_must_be_equal():
    numbers = judged(np.array([1, 2, 3]), np.array([1, 2, 2]), "classes", "numbers").measures
    assert numbers["agreement"] == pytest.approx(2 / 3)
    texts = judged(np.array(["a", "b"]), np.array(["a", "c"]), "classes", "texts").measures
    assert texts == {"agreement": 0.5}


def test_a_probability_of_zero_costs_much_not_infinitely_much():
    made = judged(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]), "classes", "probabilities", 1)
    assert np.isfinite(made.measures["kl"])
    assert made.measures["kl"] > 10


def test_the_worst_of_several_outputs_counts(rng):
    one, two = rng.normal(size=(2, 30, 6))
    outputs = [Output("a", "classes", "logits", 1), Output("b", "classes", "logits", 1)]
    found = measure_fidelity(
        {"a": one, "b": two}, {"a": one, "b": one}, data(30), outputs, level=None
    )
    assert found.agreement == found.outputs[1].measures["agreement"] < 1
    assert found.kl == found.outputs[1].measures["kl"] > 0
    assert found.score == found.agreement
    assert "(b)" in found.text


@pytest.mark.parametrize("kind", ["classes", "values", "embedding", "state"])
def test_a_value_that_is_not_finite_breaks_its_row(kind, rng):
    source = rng.normal(size=(10, 4))
    variant = source.copy()
    variant[3, 0], variant[7, 2] = np.nan, np.inf
    form = "logits" if kind == "classes" else ""
    made = judged(variant, source, kind, form, 1, level=0.95)
    assert made.broken == 2
    assert made.quality == -1
    assert "2 rows" in made.text
    assert made.measures["error"] == np.inf
    if kind == "classes":
        assert made.measures["agreement"] == pytest.approx(0.8)


def test_nan_never_wins_a_class():
    """NaN is the largest for argmax, and class 0 would look right."""
    source = np.array([[5.0, 1.0, 0.0]])
    assert (
        judged(np.full((1, 3), np.nan), source, "classes", "logits", 1).measures["agreement"] == 0
    )


def test_where_the_source_is_not_finite_nothing_is_asked(rng):
    source = rng.normal(size=(10, 4))
    source[2, 1] = -np.inf
    made = judged(source.copy(), source, "values", axis=1, level=0.95)
    assert (made.broken, made.measures["error"]) == (0, 0.0)


def test_the_error_is_its_power_over_the_variance(rng):
    source = 900 + 10 * rng.normal(size=(500, 1))
    variant = source + rng.normal(size=(500, 1))
    made = judged(variant, source, "values", axis=1, each=True).measures
    assert made["error"] == pytest.approx(((variant - source) ** 2).mean() / source.var(), rel=1e-3)
    assert made["snr"] == pytest.approx(20, abs=1)
    assert made["r2"] == 1 - made["error"]


def test_channels_of_other_scales_are_not_hidden_by_large_ones(rng):
    price, age = 1000 * rng.normal(size=(200, 1)), rng.normal(size=(200, 1))
    source = np.concatenate([price, age], axis=1)
    variant = np.concatenate([price, rng.normal(size=(200, 1))], axis=1)
    assert judged(variant, source, "values", axis=1, each=True).measures["error"] > 1
    boxes = np.concatenate([100 * rng.normal(size=(20, 4, 50)), rng.uniform(size=(20, 8, 50))], 1)
    ruined = boxes.copy()
    ruined[:, 4:] = rng.uniform(size=(20, 8, 50))
    assert judged(ruined, boxes, "values", axis=1).measures["error"] > 1


def test_what_varies_little_beside_its_size_is_judged_by_what_it_varies(rng):
    source = 900 + 0.1 * rng.normal(size=(300, 1))
    noisy = source + 0.08 * rng.normal(size=source.shape)
    found = judged(noisy, source, "values", axis=1, level=0.95)
    assert found.measures["error"] == pytest.approx(((noisy - source) ** 2).mean() / source.var())
    assert found.measures["error"] < found.intervals["error"].high < 1
    still = np.tile([900.2, 899.9], (60, 1))
    moved = judged(still + np.array([0.1, -0.1]), still, "classes", "logits", 1)
    assert moved.measures["error"] == pytest.approx(0.01 / 0.15**2)


def test_dead_units_among_many_do_not_decide(rng):
    source = rng.normal(size=(50, 128))
    source[:, 5] *= 1e-4
    variant = source + 1e-3 * rng.normal(size=source.shape)
    assert judged(variant, source, "values", axis=1).measures["error"] < 1e-4


@pytest.mark.parametrize("each", [True, False])
def test_a_unit_that_is_dead_on_all_rows_counts_as_a_usual_one(rng, each):
    source = rng.normal(size=(50, 16))
    source[:, :3] = 0
    noise = rng.normal(size=source.shape)
    little = judged(source + 1e-3 * noise, source, "values", axis=1, each=each)
    assert little.measures["error"] == pytest.approx(1e-6, rel=0.9)
    revived = source + noise * (np.arange(16) < 1)
    assert judged(revived, source, "values", axis=1, each=each).measures["error"] > 0.03


def test_dead_units_make_no_errors_of_others_small(rng):
    source, variant = (np.zeros((50, 1000)) for _ in range(2))
    source[:, :10] = rng.uniform(0.8, 0.9, (50, 10))
    variant[:, :10] = rng.uniform(0.8, 0.9, (50, 10))
    assert judged(variant, source, "values", axis=1).measures["error"] > 1


def test_a_constant_is_infinitely_far_from_nothing_and_near_itself():
    source = np.full((10, 2), 3.0)
    assert judged(source.copy(), source, "values", axis=1).measures["error"] == 0
    assert judged(source * 1.01, source, "values", axis=1).measures["error"] > 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("scale", "error"), [(1e100, 1e-6), (1e200, np.inf)])
def test_doubles_whose_squares_are_none_are_infinitely_wrong_and_no_accident(rng, scale, error):
    source = scale * rng.normal(size=(50, 3))
    told = judged(source * 1.001, source, "values", axis=1).measures["error"]
    assert told == pytest.approx(error, rel=0.1)


def test_embeddings_are_compared_by_direction_and_neighbours(rng):
    source = rng.normal(size=(300, 16))
    near = source + 0.05 * rng.normal(size=source.shape)
    made = judged(3 * near, source, "embedding", axis=1, level=0.95).measures
    assert 0.99 < made["cosine"] < 1
    assert made["cosine_low"] < made["cosine"]
    assert made["neighbours"] > 0.7
    other = judged(rng.normal(size=source.shape), source, "embedding", axis=1, level=0.95).measures
    assert abs(other["cosine"]) < 0.1
    assert other["neighbours"] < 0.1


def test_sequences_are_compared_by_what_they_read():
    def steps(symbols, classes=5):
        scores = np.zeros((len(symbols), classes))
        scores[np.arange(len(symbols)), symbols] = 1
        return scores

    source = np.stack([steps([0, 1, 1, 0, 2, 0]), steps([3, 0, 3, 0, 0, 4])])
    moved = np.stack([steps([1, 0, 0, 2, 2, 0]), steps([3, 0, 3, 4, 4, 0])])
    same = judged(moved, source, "sequence", "logits", 2).measures
    assert (same["edits"], same["decoded"]) == (0, 1)
    wrong = np.stack([steps([1, 0, 0, 2, 2, 0]), steps([3, 3, 3, 4, 4, 0])])
    other = judged(wrong, source, "sequence", "logits", 2).measures
    assert (other["edits"], other["decoded"]) == (pytest.approx(1 / 5), 0.5)
    tokens = judged(
        np.array([[4, 4, 1, 3]]), np.array([[4, 4, 1, 2]]), "sequence", ctc=False, end=1
    )
    assert tokens.measures["edits"] == 0


def raw_boxes(rng, rows=6, per_row=5):
    """Return a raw head of [rows, 4 + 3 classes, anchors] with boxes far from each other."""
    head = np.zeros((rows, 7, 40))
    for row in range(rows):
        for box in range(per_row):
            head[row, :4, box] = [100 * box + 20, 40, 30, 30]
            head[row, 4 + rng.integers(3), box] = 0.9
    return head


def test_boxes_of_a_raw_head_are_matched_by_place_and_class(rng):
    source = raw_boxes(rng)
    same = judged(source, source, "boxes", "cxcywh", 1, scores=4).measures
    assert same == {"precision": 1, "recall": 1, "map": 1}
    fewer = source.copy()
    fewer[:3, 4:, 0] = 0
    found = judged(fewer, source, "boxes", "cxcywh", 1, scores=4).measures
    assert found["precision"] == 1
    assert found["recall"] == pytest.approx(27 / 30)
    moved = source.copy()
    moved[:, 0] += 6  # overlaps of 0.67
    shifted = judged(moved, source, "boxes", "cxcywh", 1, scores=4).measures
    assert shifted["recall"] == 1
    assert shifted["map"] == pytest.approx(0.4)
    swapped = source.copy()
    swapped[:, 4:] = np.roll(source[:, 4:], 1, axis=1)
    assert judged(swapped, source, "boxes", "cxcywh", 1, scores=4).measures["recall"] == 0


def test_few_boxes_say_little_even_where_all_are_right(rng):
    source = raw_boxes(rng)
    few = judged(source, source, "boxes", "cxcywh", 1, level=0.95, scores=4).intervals
    many = np.concatenate([source] * 20)
    sure = judged(many, many, "boxes", "cxcywh", 1, level=0.95, scores=4).intervals
    for name in ("precision", "recall", "map"):
        assert few[name].low < 0.95 < sure[name].low <= sure[name].high == 1


def test_boxes_that_find_nothing_are_not_right(rng):
    source = raw_boxes(rng)
    nothing = judged(np.zeros_like(source), source, "boxes", "cxcywh", 1, scores=4)
    assert nothing.measures == {"precision": 0, "recall": 0, "map": 0}


def test_overlapping_boxes_of_a_raw_head_are_suppressed(rng):
    source = raw_boxes(rng, per_row=2)
    source[:, :, 10] = source[:, :, 0] * 0.999
    made = judged(source[..., ::-1], source, "boxes", "cxcywh", 1, scores=4, level=0.95)
    assert made.measures["precision"] == 1


def test_boxes_after_suppression_take_scores_and_classes_from_other_outputs():
    outputs = [Output("boxes", "boxes", "xyxy", 2, settings={"scores": "s", "classes": "c"})]
    source = {
        "boxes": np.array([[[0, 0, 9, 9], [20, 20, 40, 40]]] * 3, float),
        "s": np.array([[0.9, 0.8]] * 3),
        "c": np.array([[1, 2]] * 3),
    }
    other = source | {"c": np.array([[1, 1]] * 3)}
    made = measure_fidelity(other, source, data(3), outputs, level=None)
    assert made.outputs[0].measures["recall"] == 0.5
    assert made.agreement is None


def test_rows_of_different_shapes_are_compared_one_by_one(rng):
    source = Ragged([rng.normal(size=(length, 4)) for length in (3, 5, 4)])
    near = Ragged([row + 0.001 * rng.normal(size=row.shape) for row in source])
    assert judged(near, source, "values", axis=2).measures["error"] < 1e-4
    cut = Ragged([near[0], near[1][:2], near[2]])
    assert judged(cut, source, "values", axis=2).measures["error"] == np.inf
    assert judged(cut, source, "classes", "logits", 2).measures["agreement"] == pytest.approx(2 / 3)


def test_what_no_weight_reaches_is_estimated_where_it_is_another():
    """Converting the inputs, say to eight bits, changes it all the same."""
    mask = np.ones((20, 4), bool)
    output = Output("y", "classes", "numbers", is_fixed=True)

    def interval(given):
        found = measure_fidelity({"y": given}, {"y": mask}, data(20), [output], level=0.95)
        return found.outputs[0].intervals.get("agreement")

    assert interval(mask) is None
    changed = mask.copy()
    changed[3, 1] = False
    assert interval(changed).low < 0.95 < interval(changed).high


def test_without_a_graph_outputs_are_told_by_what_they_give(rng):
    scores = rng.dirichlet(np.ones(4), 50)
    numbers = rng.normal(size=(50, 3))
    found = measure_fidelity({"p": scores, "y": numbers}, {"p": scores, "y": numbers}, data(50))
    assert [one.kind for one in found.outputs] == ["classes", "values"]
    assert (found.agreement, found.score) == (1.0, 1.0)
