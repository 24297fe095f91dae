import numpy as np
import onnx
import pytest
import torch

from mlflow_compress.errors import DataError, SourceError
from mlflow_compress.techniques.graph.normal import normalize
from mlflow_compress.techniques.training.export import export_torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 4, 3)
        self.norm = torch.nn.BatchNorm2d(4)
        self.drop = torch.nn.Dropout(0.5)
        self.out = torch.nn.Linear(4 * 6 * 6, 3)

    def forward(self, x):
        return self.out(self.drop(torch.relu(self.norm(self.conv(x)))).flatten(1))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def images(rng):
    return rng.normal(size=(3, 1, 8, 8)).astype(np.float32)


def expected(net, images):
    net.eval()
    with torch.no_grad():
        return net(torch.from_numpy(images)).numpy()


def test_a_class_instance_in_training_mode_is_exported_as_it_evaluates(net, images, evaluate):
    net.train()
    model = export_torch(net, images)
    assert net.training
    assert {"conv.weight", "out.weight"} <= {t.name for t in model.graph.initializer}
    got = evaluate(normalize(model), {"input": images[:1]})
    np.testing.assert_allclose(got, expected(net, images[:1]), atol=1e-5)


def test_what_mlflow_loads_from_pt2_is_exported(net, images, evaluate):
    net.eval()
    batch = torch.export.Dim("b")
    program = torch.export.export(net, (torch.from_numpy(images),), dynamic_shapes=({0: batch},))
    model = export_torch(program.module(), {"pixels": images})
    more = np.concatenate([images, images])
    got = evaluate(model, {"pixels": more})
    np.testing.assert_allclose(got, expected(net, more), atol=1e-5)


class Pair(torch.nn.Module):
    """Takes three inputs of one shape, the last of which may be left out."""

    def forward(self, query, key, bias=None):
        made = query - 2 * key
        return made if bias is None else made + 3 * bias


@pytest.mark.parametrize(
    "names",
    [("query", "key"), ("key", "query"), ("bias", "key", "query"), ("a", "b"), ("z", "a", "b")],
)
def test_inputs_are_bound_by_name_where_forward_has_the_names(names, rng, evaluate):
    rows = {name: rng.normal(size=(4, 5)).astype(np.float32) for name in names}
    model = export_torch(Pair(), rows)
    given = {name: torch.from_numpy(array) for name, array in rows.items()}
    with torch.no_grad():
        wanted = Pair()(**given) if "query" in names else Pair()(*given.values())
    np.testing.assert_allclose(evaluate(model, rows), wanted.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("query", "keys"), r"input 'keys' is none of them \(did you mean 'key'\?\)"),
        (("query", "bias"), "'key' is missing, and inputs after it cannot be given without it"),
    ],
)
def test_names_that_forward_takes_only_in_part_are_refused(names, reason, rng):
    rows = {name: rng.normal(size=(4, 5)).astype(np.float32) for name in names}
    with pytest.raises(
        DataError, match=f"forward takes query, key, bias, the data have .*{reason}"
    ):
        export_torch(Pair(), rows)


def test_nothing_reaches_the_terminal(net, images, capfd):
    export_torch(net, images)
    assert capfd.readouterr() == ("", "")


def test_a_module_that_cannot_be_exported_is_a_source_error(images):
    class Branches(torch.nn.Module):
        def forward(self, x):
            return x if x.sum().item() > 0 else -x

    with pytest.raises(SourceError, match="PyTorch cannot export the module"):
        export_torch(Branches(), images)


def test_outputs_that_differ_are_refused(images):
    class Noise(torch.nn.Module):
        def forward(self, x):
            return x + torch.rand_like(x)

    with pytest.raises(SourceError, match=r"output '.*' differs from PyTorch's by 0\."):
        export_torch(Noise(), images)


def test_one_row_is_too_few(net, images):
    with pytest.raises(DataError, match="two example rows"):
        export_torch(net, images[:1])


class Gives(torch.nn.Module):
    """Gives what a function makes of the rows."""

    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, x):
        return self.make(x)


class Projected(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.LSTM(5, 8, proj_size=3, batch_first=True)

    def forward(self, x):
        return self.net(x[:, None])[0]


def fails(x):
    raise ValueError("\x1b[31mno such thing\x1b[0m\nand more")


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (lambda x: (x + 1, None), 1),
        (lambda x: {"a": x + 1, "b": None, "c": x > 0}, 2),
        (lambda x: x.argmax(1), 1),
        (lambda x: [x > 0, (x * 2, x.to(torch.int64))], 3),
    ],
    ids=["None", "yes or no", "numbers", "nested"],
)
def test_outputs_of_all_sorts_are_compared(make, count, rng):
    rows = rng.normal(size=(4, 5)).astype(np.float32)
    assert len(export_torch(Gives(make), rows).graph.output) == count


def test_sums_of_half_numbers_round(rng):
    net = torch.nn.Sequential(torch.nn.Linear(5, 300), torch.nn.Linear(300, 2)).half()
    model = export_torch(net, rng.normal(size=(4, 5)).astype(np.float16))
    assert model.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (Gives(fails), r"does not run on the example rows .*: ValueError: no such thing$"),
        (torch.nn.Linear(5, 2).bfloat16(), r"\[4, 5\] torch\.float32\): RuntimeError: mat1 and"),
        (Gives(lambda x: x + 1 if x.sum() > 0 else x - 1), "cannot export .*: GuardOnDataDep"),
        (Projected(), "onnxruntime does not run what PyTorch exported: .* LSTM node"),
    ],
    ids=["raises", "dtype", "branches on data", "projection"],
)
def test_what_cannot_be_exported_is_refused_in_one_line_with_its_cause(module, reason, rng):
    with pytest.raises(SourceError, match=reason) as caught:
        export_torch(module, rng.normal(size=(4, 5)).astype(np.float32))
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)
