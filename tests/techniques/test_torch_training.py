"""Techniques that train: on a small task, from ONNX and back into the same graph."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper

from mlflow_compress.errors import DataError, TechniqueError
from mlflow_compress.records import Recipe, Step
from mlflow_compress.techniques import Context, OrderError, apply_recipe, validate_recipe
from mlflow_compress.techniques.data import TrainData, Training
from mlflow_compress.techniques.graph.running import session
from mlflow_compress.techniques.training.interpreter import Interpreter
from mlflow_compress.techniques.training.loop import Constraint, fit

CLASSES = 6


def task(rows, seed):
    """Noisy points around fixed centres in 20 dimensions, two centres per class."""
    centres = np.random.default_rng(0).normal(0, 1, (2 * CLASSES, 20))
    rng = np.random.default_rng(seed)
    which = rng.integers(0, 2 * CLASSES, rows)
    x = centres[which] + rng.normal(0, 0.8, (rows, 20))
    return {"x": x.astype(np.float32)}, (which % CLASSES).astype(np.int64)


@pytest.fixture(scope="module")
def data():
    inputs, labels = task(3000, 1)
    return TrainData(inputs, labels, digest="task", share=0.2)


@pytest.fixture(scope="module")
def source(data):
    """A network trained on the task; Gemm in one layout, MatMul in the other."""
    torch.manual_seed(0)
    w1, b1 = torch.randn(48, 20) * 0.2, torch.zeros(48)
    w2, b2 = torch.randn(48, CLASSES) * 0.2, torch.zeros(CLASSES)
    values = [value.requires_grad_() for value in (w1, b1, w2, b2)]
    optimizer = torch.optim.Adam(values, lr=1e-2)
    x, y = torch.from_numpy(data.inputs["x"]), torch.from_numpy(data.labels)
    for _ in range(150):
        loss = F.cross_entropy(torch.relu(x @ w1.T + b1) @ w2 + b2, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["a"]),
        helper.make_node("MatMul", ["a", "w2"], ["m"]),
        helper.make_node("Add", ["m", "b2"], ["y"]),
    ]
    names = ("w1", "b1", "w2", "b2")
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, ["n", 20])],
        [helper.make_tensor_value_info("y", 1, ["n", CLASSES])],
        [
            numpy_helper.from_array(v.detach().numpy(), n)
            for n, v in zip(names, values, strict=True)
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def accuracy(model):
    inputs, labels = task(2000, 2)
    return 100 * float((session(model).run(None, inputs)[0].argmax(1) == labels).mean())


def arrays(model):
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def apply(source, data, *steps, **context):
    recipe = Recipe(tuple(Step(name, settings) for name, settings in steps))
    return apply_recipe(source, recipe, Context(train=data, **context)).model


HOW = {"epochs": 8, "learning_rate": 5e-3, "batch": 64}


def test_pruning_while_training_keeps_more_than_pruning_alone(source, data):
    alone = apply(source, data, ("prune", {"sparsity": 0.85, "epochs": 0}))
    trained = apply(source, data, ("prune", {"sparsity": 0.85, **HOW}))
    weights = [arrays(trained)[name] for name in ("w1", "w2")]
    zeros = sum(int((w == 0).sum()) for w in weights)
    assert zeros == round(0.85 * sum(w.size for w in weights))
    assert accuracy(trained) > accuracy(alone) + 3
    assert [n.op_type for n in trained.graph.node] == [n.op_type for n in source.graph.node]


@pytest.mark.parametrize("extra", [{"scope": "layer"}, {"method": "obs"}, {"rewind": True}])
def test_pruning_in_other_ways(source, data, extra):
    made = apply(source, data, ("prune", {"sparsity": 0.8, **HOW, **extra}))
    kept = arrays(made)
    if extra.get("scope") == "layer":
        assert [int((kept[n] == 0).sum()) for n in ("w1", "w2")] == [
            round(0.8 * kept[n].size) for n in ("w1", "w2")
        ]
    assert accuracy(made) > accuracy(source) - 4


def test_shared_values_are_trained_and_stay_shared(source, data):
    alone = apply(source, data, ("share", {"clusters": 3, "epochs": 0}))
    trained = apply(source, data, ("share", {"clusters": 3, **HOW}))
    before, after = arrays(alone), arrays(trained)
    for name in ("w1", "w2"):
        assert len(np.unique(after[name])) <= 3
        index = np.unique(before[name], return_inverse=True)[1]
        assert all(len(np.unique(after[name][(index == k).reshape(after[name].shape)])) == 1
                   for k in range(3))  # fmt: skip
    assert accuracy(trained) > accuracy(alone)


def test_a_pruned_model_stays_pruned_when_its_values_are_shared(source, data):
    pruned = apply(source, data, ("prune", {"sparsity": 0.8, **HOW}))
    both = apply(pruned, data, ("share", {"clusters": 8, **HOW}))
    for name in ("w1", "w2"):
        zeros = arrays(pruned)[name] == 0
        assert (arrays(both)[name][zeros] == 0).all()


def entropy(array):
    _, counts = np.unique(array, return_counts=True)
    share = counts / counts.sum()
    return float(-(share * np.log2(share)).sum() * array.size)


@pytest.mark.parametrize("bits", [0.6, 1.2])
def test_the_rate_term_brings_the_entropy_to_what_is_asked_for(source, data, bits):
    first = ("prune", {"sparsity": 0.8 if bits < 1 else 0.0, **HOW})
    made = apply(source, data, first, ("entropy_share", {"bits": bits, "values": 7, **HOW}))
    coded = list(arrays(made).values())
    assert sum(entropy(a) for a in coded) / sum(a.size for a in coded) == pytest.approx(bits, 0.03)
    assert all(len(np.unique(a)) <= 7 for a in coded)
    assert accuracy(made) > accuracy(source) - 4


def test_fewer_bits_at_equal_accuracy_than_sharing_alone(source, data):
    pruned = apply(source, data, ("prune", {"sparsity": 0.8, **HOW}))
    rate = apply(pruned, data, ("entropy_share", {"bits": 0.6, "values": 7, **HOW}))
    plain = apply(pruned, data, ("entropy_share", {"bits": 0.6, "epochs": 0}))
    assert accuracy(rate) > accuracy(plain) + 1


def test_training_under_fake_quantization_gives_a_quantized_model(source, data):
    made = apply(source, data, ("quantize", {"epochs": 2, "batch": 64}))
    kinds = {node.op_type for node in made.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    assert accuracy(made) > accuracy(source) - 2


def test_distillation_needs_no_labels_and_keeps_zeros(source, data):
    broken = apply(source, data, ("prune", {"sparsity": 0.85, "epochs": 0}))
    taught = replace(data, labels=None)
    recipe = Recipe((Step("distill", HOW),))
    made = apply_recipe(broken, recipe, Context(train=taught, source=source)).model
    assert accuracy(made) > accuracy(broken) + 3
    for name in ("w1", "w2"):
        assert (arrays(made)[name][arrays(broken)[name] == 0] == 0).all()


def test_a_shrunk_network_learns_from_the_source(source, data):
    shrunk = apply(source, data, ("shrink", {"ratio": 0.9}))
    recipe = Recipe((Step("distill", HOW),))
    made = apply_recipe(shrunk, recipe, Context(train=data, source=source)).model
    assert arrays(made)["w1"].size < 0.2 * arrays(source)["w1"].size
    assert accuracy(made) > accuracy(shrunk) + 1


def test_without_training_data_distillation_is_refused(source):
    with pytest.raises(TechniqueError, match=r"needs training data.*data\.train"):
        apply_recipe(source, Recipe((Step("distill"),)), Context())


def test_distillation_after_sharing_would_undo_it():
    with pytest.raises(OrderError, match="distill cannot come after share"):
        validate_recipe(Recipe((Step("share"), Step("distill"))))


def test_the_same_seed_gives_the_same_bytes_and_another_one_does_not(source, data):
    step = ("entropy_share", {"bits": 0.8, "epochs": 2})
    first, again = (apply(source, data, step, seed=3) for _ in range(2))
    assert first == again
    assert apply(source, data, step, seed=4) != first


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    "step",
    [
        ("prune", {"sparsity": 0.8, "method": "obs"}),
        ("share", {"clusters": 8}),
        ("entropy_share", {"bits": 0.8}),
        ("quantize", {}),
    ],
    ids=lambda step: step[0],
)
def test_a_killed_training_goes_on_and_ends_the_same(source, data, tmp_path, step):
    name, settings = step
    step = (name, {**settings, "epochs": 4, "batch": 64})
    whole = apply(source, data, step)

    def kill(epoch):
        if epoch.epoch == 3:
            raise Killed

    with pytest.raises(Killed):
        apply(source, data, step, checkpoints=tmp_path, on_epoch=kill)
    assert len(list(tmp_path.iterdir())) == 1
    seen = []
    resumed = apply(source, data, step, checkpoints=tmp_path, on_epoch=seen.append)
    assert [epoch.epoch for epoch in seen] == [3, 4]
    assert resumed == whole
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[: len(data) // 2]])
def test_a_damaged_checkpoint_is_as_good_as_none(source, data, tmp_path, damage):
    step = ("distill", {"epochs": 2, "batch": 64})
    whole = apply(source, data, step)

    def kill(epoch):
        if epoch.epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        apply(source, data, step, checkpoints=tmp_path, on_epoch=kill)
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert apply(source, data, step, checkpoints=tmp_path) == whole


def test_a_checkpoint_that_is_a_program_is_not_run(source, data, tmp_path, caplog):
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return ran.touch, ()

    step = ("distill", {"epochs": 2, "batch": 64})
    whole = apply(source, data, step)
    folder = tmp_path / "checkpoints"

    def replace_it(epoch):
        if epoch.epoch == 2:
            (path,) = folder.iterdir()
            torch.save({"values": Evil()}, path)
            raise Killed

    with pytest.raises(Killed):
        apply(source, data, step, checkpoints=folder, on_epoch=replace_it)
    assert apply(source, data, step, checkpoints=folder) == whole
    assert not ran.exists()
    assert "is damaged, training begins anew" in caplog.text


def test_where_no_checkpoint_can_be_written_training_goes_on(source, data, tmp_path):
    (tmp_path / "file").touch()
    step = ("distill", {"epochs": 2, "batch": 64})
    made = apply(source, data, step, checkpoints=tmp_path / "file" / "folder")
    assert made == apply(source, data, step)


def test_every_epoch_is_told(source, data):
    seen = []
    apply(source, data, ("distill", {"epochs": 3}), on_epoch=seen.append)
    assert [(e.technique, e.epoch, e.epochs) for e in seen] == [
        ("distill", n, 3) for n in (1, 2, 3)
    ]
    assert all(np.isfinite([e.loss, e.validation_loss]).all() and 0 <= e.score <= 1 for e in seen)


def test_training_stops_early_and_keeps_the_best_epoch(source, data):
    student, teacher = Interpreter(source), Interpreter(source)

    class Spoiler(Constraint):
        """Spoils the weights more every epoch."""

        def after(self):
            with torch.no_grad():
                student.trained()["w1"].add_(0.05)

    training = Training(epochs=20, patience=2, learning_rate=1e-6)
    history = fit(student, teacher, data, training, Spoiler(), technique="t")
    losses = [epoch.validation_loss for epoch in history]
    assert len(history) == losses.index(min(losses)) + 3 < 20
    kept = fit(student, teacher, data, replace(training, epochs=1), technique="t")[0]
    assert kept.validation_loss == pytest.approx(min(losses), rel=0.02)


def test_batches_from_a_loader(source, data):
    inputs, labels = dict(data.inputs), data.labels

    def loader():
        for begin in range(0, 2000, 100):
            rows = slice(begin, begin + 100)
            yield {"x": inputs["x"][rows]}, labels[rows]

    loaded = TrainData(data.head(8), loader=loader, digest="loader")
    made = apply(source, loaded, ("prune", {"sparsity": 0.8, **HOW}))
    alone = apply(source, data, ("prune", {"sparsity": 0.8, "epochs": 0}))
    assert accuracy(made) > accuracy(alone) + 3


def test_augmented_rows_are_trained_on_and_validation_rows_are_not(source, data):
    seen = []

    def augment(inputs, rng):
        seen.append(len(inputs["x"]))
        return {"x": inputs["x"] + rng.normal(0, 0.1, inputs["x"].shape).astype(np.float32)}

    apply(source, replace(data, augment=augment), ("distill", {"epochs": 1, "batch": 600}))
    assert seen == [600] * 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"labels": np.full(3000, CLASSES)},
            f"labels go from {CLASSES} to {CLASSES}, and the model",
        ),
        ({"inputs": {"z": np.zeros((9, 20), np.float32)}, "labels": None}, "input 'x' is missing"),
    ],
)
def test_data_that_do_not_fit_are_refused(source, data, change, message):
    with pytest.raises(DataError, match=message):
        apply(source, replace(data, **change), ("distill", {"epochs": 1}))


def test_labels_must_be_class_numbers(data):
    with pytest.raises(DataError, match="one class number per row, got float64 of"):
        replace(data, labels=np.zeros((3000, 2)))
    with pytest.raises(DataError, match="class numbers from 0, got -1"):
        replace(data, labels=data.labels - 1)


def test_a_loss_that_is_no_number_is_an_error(source, data):
    with pytest.raises(TechniqueError, match="a smaller learning_rate than 1 may help"):
        broken = onnx.ModelProto()
        broken.CopyFrom(source)
        inputs = {"x": data.inputs["x"].copy()}
        inputs["x"][10:] = 1e38
        apply(broken, replace(data, inputs=inputs), ("distill", {"epochs": 1, "learning_rate": 1}))


def test_where_only_labels_count_the_source_is_not_run(source, data):
    class Counted(torch.nn.Module):
        calls = 0

        def forward(self, x):
            Counted.calls += 1
            return teacher(x)

    teacher, rows = Interpreter(source), replace(data, augment=lambda inputs, _: inputs)
    fit(Interpreter(source), Counted(), rows, Training(epochs=2, label_share=1.0), technique="t")
    assert Counted.calls == 1  # to see what it gives
    unlabelled = replace(rows, labels=None)
    fit(Interpreter(source), Counted(), unlabelled, Training(epochs=1, label_share=1.0),
        technique="t")  # fmt: skip
    assert Counted.calls > 10


def test_a_group_learns_at_another_rate_once_weights_are_settled(source, data, monkeypatch):
    class Settling(Constraint):
        settled_at = 0.5

        def groups(self, student):
            return [{"params": list(student.parameters()), "scale": 0.5, "settled": 4.0}]

    rates = []
    step = torch.optim.Adam.step
    monkeypatch.setattr(
        torch.optim.Adam,
        "step",
        lambda self: (rates.append(self.param_groups[0]["lr"]), step(self))[1],
    )
    fit(Interpreter(source), Interpreter(source), data, Training(epochs=2), Settling(),
        technique="t")  # fmt: skip
    half = len(rates) // 2
    assert rates[half - 1] < rates[0] == pytest.approx(0.5e-3)
    assert rates[half] > 7 * rates[half - 1] and rates[-1] < rates[half]
