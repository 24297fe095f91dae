"""What outputs are told to be, by graph and data, and what a person may say."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from mlflow_compress.errors import ConfigError
from mlflow_compress.measure.outputs import Evidence, parse_text, tell_outputs
from mlflow_compress.rows import Ragged


def model(nodes, outputs, inputs=(("x", TensorProto.FLOAT),), weights=(), metadata=()):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, kind, None) for name, kind in inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(made, dict(metadata))
    return made


def one(array, name="y", operator="Relu", labels=None, given=None, metadata=(), inputs=None):
    """Return what the only output of a model of one operator is told to be."""
    graph = model(
        [helper.make_node(operator, ["x"], [name])],
        [name],
        inputs or [("x", TensorProto.FLOAT)],
        metadata=metadata,
    )
    (output,) = tell_outputs(Evidence(graph, {name: array}, labels, given or {}))
    return output


def softmax(scores, axis=-1):
    powers = np.exp(scores - scores.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


def test_probabilities_are_told_by_their_sums_along_whatever_axis(rng):
    told = one(softmax(rng.normal(size=(20, 5))))
    assert (told.kind, told.form, told.axis) == ("classes", "probabilities", 1)
    pixels = one(softmax(rng.normal(size=(4, 3, 6, 6)), axis=1))
    assert (pixels.kind, pixels.axis) == ("classes", 1)
    logs = one(np.log(softmax(rng.normal(size=(20, 5)))))
    assert (logs.kind, logs.form) == ("classes", "log probabilities")


def test_scores_that_nothing_vouches_for_are_values(rng):
    told = one(rng.normal(size=(20, 5)))
    assert told.kind == "values"
    assert one(rng.uniform(size=(20, 1)), operator="Sigmoid").kind == "values"
    assert one(rng.uniform(size=(20, 5))).kind == "values"


def test_logits_are_told_by_name_by_metadata_or_by_labels(rng):
    scores = rng.normal(size=(50, 5))
    assert one(scores, name="head.logits").form == "logits"
    assert one(scores, metadata=[("names", "{0: 'a', 1: 'b', 2: 'c', 3: 'd', 4: 'e'}")]).kind == (
        "classes"
    )
    assert one(scores, metadata=[("names", "a,b,c")]).kind == "values"
    right = one(scores, labels=scores.argmax(axis=1))
    assert (right.kind, right.form, right.axis) == ("classes", "logits", 1)
    assert one(scores, labels=rng.integers(0, 5, 50)).kind == "values"
    column = rng.uniform(size=(50, 1))
    assert one(column, labels=(column[:, 0] > 0.5).astype(int)).form == "binary"


def test_whole_numbers_and_texts_are_classes_that_must_be_equal():
    assert one(np.arange(4), operator="ArgMax").form == "numbers"
    assert one(np.array(["a", "b"])).form == "texts"
    assert one(np.array([True, False])).kind == "classes"


def test_vectors_of_length_one_are_embeddings(rng):
    vectors = rng.normal(size=(20, 16))
    told = one(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    assert (told.kind, told.axis) == ("embedding", 1)
    assert one(vectors, name="sentence_embedding").kind == "embedding"
    assert one(vectors).kind == "values"


def test_the_head_of_a_detector_is_told_by_its_metadata(rng):
    metadata = [("names", "{0: 'face', 1: 'hand'}"), ("stride", "32"), ("task", "detect")]
    told = one(rng.uniform(size=(2, 6, 100)), metadata=metadata)
    assert (told.kind, told.form, told.axis, told.settings) == ("boxes", "cxcywh", 1, {"scores": 4})
    older = one(rng.uniform(size=(2, 100, 7)), metadata=metadata)
    assert older.settings == {"scores": 5, "objectness": 4}
    assert one(rng.uniform(size=(2, 6, 100)), metadata=metadata[:1]).kind == "values"


def test_steps_that_are_mostly_blank_are_a_sequence_when_a_signal_is_read(rng):
    steps = np.zeros((3, 40, 30))
    steps[:, ::4, 7] = 8.0
    steps[:, :, 0] += 4.0
    assert one(softmax(steps)).kind == "sequence"
    tokens = one(softmax(steps), inputs=[("x", TensorProto.INT64)])
    assert tokens.kind == "classes"  # as in named entities, where a position counts


def test_the_last_state_of_a_recurrent_layer_is_a_state(rng):
    weights = [
        ("w", np.zeros((1, 32, 4), np.float32)),
        ("r", np.zeros((1, 32, 8), np.float32)),
    ]
    graph = model(
        [helper.make_node("LSTM", ["x", "w", "r", "", "", "h0"], ["y", "hn"], hidden_size=8)],
        ["y", "hn"],
        [("x", TensorProto.FLOAT), ("h0", TensorProto.FLOAT)],
        weights,
    )
    outputs = {"y": rng.normal(size=(5, 3, 8)), "hn": rng.normal(size=(5, 1, 8))}
    assert [o.kind for o in tell_outputs(Evidence(graph, outputs))] == ["values", "state"]


def test_what_does_not_depend_on_the_inputs_is_not_judged(rng):
    graph = model(
        [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Relu", ["w"], ["anchors"])],
        ["y", "anchors"],
        weights=[("w", np.ones(3, np.float32))],
    )
    outputs = {"y": rng.normal(size=(5, 3)), "anchors": np.ones((5, 3))}
    told = tell_outputs(Evidence(graph, outputs))
    assert [output.kind for output in told] == ["values", "ignore"]


def test_scores_and_their_best_class_are_one_decision(rng):
    graph = model(
        [
            helper.make_node("Softmax", ["x"], ["p"]),
            helper.make_node("ArgMax", ["x"], ["c"]),
            helper.make_node("Relu", ["x"], ["other"]),
        ],
        ["p", "c", "other"],
    )
    scores = rng.normal(size=(9, 4))
    outputs = {"p": softmax(scores), "c": scores.argmax(1), "other": scores}
    told = tell_outputs(Evidence(graph, outputs))
    assert [output.decision for output in told] == ["x", "x", "other"]


def test_a_person_has_the_last_word(rng):
    scores = rng.normal(size=(20, 5))
    told = one(scores, given={"y": "classes"})
    assert (told.kind, told.form, told.axis, told.is_given) == ("classes", "logits", 1, True)
    assert one(rng.uniform(size=(20, 1)), given={"y": "classes"}).form == "binary"
    boxes = one(
        rng.uniform(size=(2, 50, 6)), given={"y": {"kind": "boxes", "format": "xywh", "classes": 5}}
    )
    assert (boxes.form, boxes.axis, boxes.settings) == ("xywh", 2, {"classes": 5})


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"z": "classes"}, ("no output 'z'", "it has y")),
        ({"y": "clases"}, ("clases", "did you mean 'classes'")),
        ({"y": {"kind": "boxes", "sores": 4}}, ("sores", "did you mean 'scores'")),
        ({"y": {"kind": "classes", "axis": 2}}, ("axis 2", "['rows', 5]")),
        ({"y": {"kind": "boxes", "axis": 1, "scores": "s"}}, ("no output 's'",)),
        ({"y": "ignore"}, ("no output is left",)),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(said, words, rng):
    with pytest.raises(ConfigError) as caught:
        one(rng.normal(size=(20, 5)), given=said)
    for word in words:
        assert word in str(caught.value)


def test_the_command_line_says_the_same():
    assert parse_text("a=b=boxes,format:cxcywh,scores:4,threshold:0.3,nms:false") == (
        "a=b",
        {"kind": "boxes", "format": "cxcywh", "scores": 4, "threshold": 0.3, "nms": False},
    )
    for text in ("logits", "=classes", "y=", "y=boxes,4"):
        with pytest.raises(ConfigError, match="--kind"):
            parse_text(text)


def test_outputs_that_give_nothing_and_single_numbers_are_no_accident(rng):
    shape = {"y": rng.normal(size=20), "none": np.zeros((20, 0)), "boxes": rng.normal(size=(20, 7))}
    graph = model([helper.make_node("Split", ["x"], list(shape))], list(shape))
    with pytest.raises(ConfigError, match="'none' gives no values on any of these rows, so that"):
        tell_outputs(Evidence(graph, shape))  # a variant might give some, and nobody would see it
    assert tell_outputs(Evidence(graph, shape, given={"none": "ignore"}))[1].kind == "ignore"
    graph.graph.output[1].CopyFrom(helper.make_tensor_value_info("none", 1, ["N", 0]))
    number, nothing, _ = tell_outputs(Evidence(graph, shape))
    assert (number.kind, number.axis) == ("values", None)
    assert (nothing.kind, nothing.reason) == ("ignore", "it never gives any values")


def test_images_without_boxes_do_not_hide_those_of_others(rng):
    vectors = rng.normal(size=(20, 3, 16))
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    assert one(Ragged([np.zeros((0, 16)), *vectors])).kind == one(vectors).kind
    assert one(vectors).kind != "values"
