"""Paths with binary gates: what their gradient is, what is in memory, and what a search finds."""

from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest
import torch

from mlflow_compress.errors import ConfigError
from mlflow_compress.nas import BlockSpec, LatencyTable, net_onnx
from mlflow_compress.nas.path_search import FoundPath, retrain, search_paths
from mlflow_compress.nas.path_settings import PathSettings, latency_loss
from mlflow_compress.nas.path_space import PathSpace
from mlflow_compress.nas.paths import Choice, PathNet
from mlflow_compress.nas.training import Images, accuracy
from tests.nas.made import CLASSES, bars, bars_data

SETTINGS = PathSettings(
    epochs=4, warmup=1, every=1, alpha_rate=0.2, batch=50, learning_rate=0.1, retrain_epochs=6
)


@pytest.fixture(scope="module")
def images():
    return Images.split(bars_data(1200))


@pytest.fixture(scope="module")
def space():
    data = {
        "stem": {"channels": 8, "stride": 2},
        "stages": [{"channels": 8}, {"channels": 12, "stride": 2}, {"channels": 12}],
        "candidates": {"regular": [3, 5], "separable": [3]},
    }
    return PathSpace.parse(data, channels=1, size=12, classes=CLASSES)


@pytest.fixture(scope="module")
def table(space):
    """Milliseconds as if they were multiply-adds, 1000 to the microsecond."""
    blocks = {(b, size): b.multiply_adds(size) * 1e-6 for b, size in space.entries()}
    return LatencyTable("made up", 1, blocks, start=0.005, each=0.001)


def test_a_space_is_what_its_yaml_says(space):
    kinds = [[(b.kind, b.kernel) for b in place] for place in space.places]
    both = [("regular", 3), ("regular", 5), ("separable", 3)]
    assert kinds == [[*both, ("skip", 3)], both, [*both, ("skip", 3)]]
    assert space.count == 4 * 3 * 4
    assert [size for _, size in space.sized()] == [12, 6, 6, 3]
    made = space.spec([3, 2, 3])
    assert [block.kind for block in made.blocks] == ["regular", "separable"]
    assert all(block.kind != "skip" for block, _ in space.entries())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"stages": []}, "stages: "),
        ({"stages": [{"channels": 0}]}, "stages.0.channels: .* got 0"),
        ({"stages": [{"chanels": 8}]}, "stages.0.channels: field required"),
        ({"candidates": {"regular": [4]}}, "candidates.regular.0: .* got 4"),
        ({"candidates": {"regular": [], "separable": []}}, "from 8 to 12 channels at stride 2"),
    ],
)
def test_a_space_that_cannot_be_is_refused_by_name(change, told):
    data = {"stem": {"channels": 8}, "stages": [{"channels": 12, "stride": 2}], **change}
    with pytest.raises(ConfigError, match=told):
        PathSpace.parse(data, channels=1, size=12, classes=CLASSES)


def three():
    """A place with three candidates, its gates, and an input."""
    torch.manual_seed(1)
    choice = Choice([BlockSpec("regular", 3, 3), BlockSpec("separable", 3, 3),
                     BlockSpec("skip", 3, 3)])  # fmt: skip
    with torch.no_grad():
        choice.alpha.copy_(torch.tensor([0.3, -0.5, 0.1]))
    return choice.eval(), torch.randn(4, 3, 5, 5), torch.randn(4, 3, 5, 5)


@pytest.mark.parametrize("rivals", [(0, 1, 2), (0, 2)])
def test_the_gates_gradient_is_that_of_the_formula(rivals):
    choice, x, target = three()
    for active in rivals:
        choice.rivals, choice.active, choice.alpha.grad = rivals, active, None
        ((choice(x) - target) ** 2).mean().backward()
        made = choice.alpha.grad.numpy()
        # by hand: the output is Σ g_j o_j, and gates are open or shut
        outputs = [choice.candidates[j](x).detach() for j in rivals]
        grad = 2 * (outputs[rivals.index(active)] - target) / target.numel()
        of_gates = [float((grad * o).sum()) for o in outputs]
        p = torch.softmax(choice.alpha[list(rivals)].detach(), 0).tolist()
        for i, index in enumerate(rivals):
            wanted = sum(of_gates[j] * p[j] * ((i == j) - p[i]) for j in range(len(rivals)))
            assert made[index] == pytest.approx(wanted, rel=1e-4, abs=1e-7)
        assert all(made[j] == 0 for j in range(3) if j not in rivals)


def test_the_input_and_the_active_path_get_their_usual_gradient():
    choice, x, target = three()
    plain = x.clone().requires_grad_()
    ((choice.candidates[1](plain) - target) ** 2).mean().backward()
    choice.rivals, choice.active = (0, 1), 1
    gated = x.clone().requires_grad_()
    ((choice(gated) - target) ** 2).mean().backward()
    torch.testing.assert_close(gated.grad, plain.grad)


@pytest.mark.parametrize("rivals", [0, 2, 6])
def test_one_path_only_is_in_memory(space, rivals):
    """As many numbers are kept for the way back as the same path alone keeps."""
    net = PathNet(space)
    net.draw(np.random.default_rng(0), rivals)
    active = [choice.active for choice in net.places()]
    alone = [torch.nn.Sequential(net.stem, *(c.candidates[c.active] for c in net.places()))]
    kept = 0

    def count(tensor):
        nonlocal kept
        kept += tensor.numel()
        return tensor

    def numbers(run):
        nonlocal kept
        kept = 0
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            made = run(torch.randn(16, 1, 12, 12))
        return kept, made

    whole, logits = numbers(lambda x: net(x))
    path, _ = numbers(lambda x: net.classifier(alone[0](x).mean((2, 3))))
    assert whole <= path + 100  # a few numbers are the gates'
    calls = []
    for block in (block for choice in net.places() for block in choice.candidates):
        block.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    logits.square().mean().backward()
    # while the gradient goes back the others run one by one, and keep nothing
    assert not any(calls)
    assert len(calls) == sum(max(0, len(c.rivals) - 1) for c in net.places())
    assert [choice.active for choice in net.places()] == active


def test_a_step_of_two_gates_leaves_the_others_their_probability():
    choice, _, _ = three()
    choice.rivals = (0, 2)
    before, p = choice.alpha.detach().clone(), choice.probabilities().detach()
    with torch.no_grad():
        choice.alpha[0] += 0.7
        choice.alpha[2] -= 0.2
    choice.keep_sum(before)
    after = choice.probabilities().detach()
    assert after[1] == pytest.approx(float(p[1]), rel=1e-5)
    assert after[0] > p[0]


def test_expected_latency_is_the_mean_over_all_paths(space, table):
    net = PathNet(space)
    with torch.no_grad():
        for index, alpha in enumerate(net.alphas()):
            alpha.copy_(torch.linspace(-1, index, len(alpha)))
    shares = [torch.softmax(alpha, 0).tolist() for alpha in net.alphas()]
    total = sum(
        np.prod([shares[k][j] for k, j in enumerate(path)]) * table.predict(space.spec(path))
        for path in np.ndindex(*[len(place) for place in space.places])
    )
    assert net.expected_ms(table).item() == pytest.approx(total, rel=1e-5)


def test_both_losses_are_the_published_ones():
    error, expected = torch.tensor(0.7), torch.tensor(0.2)
    plain = PathSettings(loss="additive", weight=3.0)
    assert float(latency_loss(error, expected, 0.1, plain)) == pytest.approx(0.7 + 3 * 2)
    made = float(latency_loss(error, expected, 0.1, PathSettings(weight=0.6, scale=0.2)))
    assert made == pytest.approx(0.7 * 0.2 * (np.log(200) / np.log(100)) ** 0.6)


def test_a_large_latency_weight_yields_the_cheapest_network(space, images, table):
    for loss, weight in (("additive", 50.0), ("multiplicative", 8.0)):
        settings = replace(SETTINGS, loss=loss, weight=weight, epochs=2, warmup=0)
        found = search_paths(space, images, table, settings, limit=0.02)
        paths = np.ndindex(*[len(place) for place in space.places])
        cheapest = min(paths, key=lambda path: table.predict(space.spec(path)))
        assert found.chosen == cheapest, loss
        assert found.reference == 0.02
        assert found.history[-1].expected_ms < found.history[0].expected_ms


def test_without_a_latency_weight_the_network_is_as_good_as_it_gets(space, images, table):
    """Its retrained form beats the cheapest one, and is the same in onnxruntime."""
    heard = []
    found = search_paths(
        space, images, table, replace(SETTINGS, loss="additive", weight=0.0), watch=heard.append
    )
    assert tuple(heard) == found.history
    assert [len(p) for p in heard[0].probabilities] == [4, 3, 4]
    assert all(sum(p) == pytest.approx(1, abs=1e-5) for e in heard for p in e.probabilities)
    rows, labels = (torch.from_numpy(part) for part in bars(500, 9))
    cheap = retrain(space.spec([3, 2, 3]), images, SETTINGS)
    net = retrain(found.spec, images, SETTINGS)
    assert accuracy(net, rows, labels) > accuracy(cheap, rows, labels) + 0.05
    session = ort.InferenceSession(net_onnx(net).SerializeToString())
    with torch.no_grad():
        np.testing.assert_allclose(
            session.run(None, {"input": rows.numpy()})[0], net(rows).numpy(), atol=1e-3
        )


def test_gates_that_have_not_decided_are_said_so(space, images, table):
    found = search_paths(space, images, table, replace(SETTINGS, alpha_rate=1e-4, epochs=1))
    assert isinstance(found, FoundPath)
    assert "the gates are undecided" in found.notes[0]


def test_a_search_that_was_killed_goes_on_where_it_was(space, images, table, tmp_path):
    settings = replace(SETTINGS, epochs=3)
    whole = search_paths(space, images, table, settings, seed=4)

    def kill(epoch):
        if epoch.epoch == 2:
            raise KeyboardInterrupt

    options = {"seed": 4, "checkpoint": tmp_path / "made" / "paths.pt"}
    with pytest.raises(KeyboardInterrupt):
        search_paths(space, images, table, settings, watch=kill, **options)
    heard = []
    again = search_paths(space, images, table, settings, watch=heard.append, **options)
    assert again == whole
    assert tuple(heard) == whole.history  # those of the checkpoint included
    assert search_paths(space, images, table, settings, **options) == whole  # nothing is left to do


def test_a_damaged_checkpoint_begins_anew(space, images, table, tmp_path, caplog):
    settings = replace(SETTINGS, epochs=1, warmup=0)
    whole = search_paths(space, images, table, settings)
    file = tmp_path / "paths.pt"
    file.write_bytes(b"damaged")
    assert search_paths(space, images, table, settings, checkpoint=file) == whole
    assert "damaged" in caplog.text


def test_microseconds_below_one_have_no_logarithm(space, images, table):
    with pytest.raises(ConfigError, match="takes the logarithm of microseconds"):
        search_paths(space, images, table, replace(SETTINGS, reference=0.0005))


def test_bad_settings_are_refused_by_name():
    for key, value in {
        "epochs": 0, "warmup": 20, "every": 0, "rivals": 1, "alpha_rate": 0, "weight": -1,
        "loss": "other", "reference": 0, "learning_rate": 11, "batch": 0, "retrain_epochs": -1,
    }.items():  # fmt: skip
        with pytest.raises(ConfigError, match=f"search.{key}"):
            PathSettings(**{key: value})
