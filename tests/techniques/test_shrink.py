import numpy as np
import onnx
import pytest
from onnx import helper, shape_inference

from mlflow_compress.errors import ConfigError, TechniqueError
from mlflow_compress.records import Recipe, Step
from mlflow_compress.techniques import Context, OrderError, apply_recipe, validate_recipe
from mlflow_compress.techniques.shrink import ShrinkSettings
from mlflow_compress.techniques.shrink import onnx as module
from mlflow_compress.techniques.shrink.onnx import keep_counts, shrink
from tests.techniques.nets import Net

BARE = ShrinkSettings(method="magnitude", repair=False)


@pytest.fixture
def net(rng, build):
    return Net(rng, build, (3, 8, 8))


def shapes(model):
    return {t.name: tuple(t.dims) for t in model.graph.initializer}


def weights(model):
    return sum(int(np.prod(t.dims)) for t in model.graph.initializer)


def run_both(evaluate, model, made, inputs):
    onnx.checker.check_model(made, full_check=True)
    shape_inference.infer_shapes(made, strict_mode=True, data_prop=True)
    before, after = evaluate(model, inputs), evaluate(made, inputs)
    assert before.shape == after.shape
    return before, after


def error(evaluate, model, made, inputs) -> float:
    before, after = run_both(evaluate, model, made, inputs)
    return float(((before - after) ** 2).mean() / before.var())


def plain(net):
    x = net.add("Relu", net.conv("x", "c1", 8, 3))
    x = net.add("MaxPool", net.norm(x, "n1", 8), kernel_shape=[2, 2], strides=[2, 2])
    x = net.conv(x, "c2", 16, 8)
    x = net.add("Reshape", x, net.hold("shape", [-1, 256]))
    x = net.add("Gemm", x, net.weight("f1", 20, 256), net.weight("f1.b", 20), transB=1)
    x = net.add("MatMul", net.add("Tanh", x), net.weight("f2", 20, 5))
    return net.model(net.add("Add", x, net.weight("f2.b", 5)))


def test_channels_go_from_every_tensor_that_they_touch(net, evaluate):
    model = plain(net)
    made = shrink(model, BARE, Context()).model
    assert shapes(made) == {
        "c1": (4, 3, 3, 3), "c1.b": (4,), "n1.0": (4,), "n1.1": (4,), "n1.2": (4,), "n1.3": (4,),
        "c2": (8, 4, 3, 3), "c2.b": (8,), "shape": (2,), "f1": (10, 128), "f1.b": (10,),
        "f2": (10, 5), "f2.b": (5,),
    }  # fmt: skip
    run_both(evaluate, model, made, net.inputs())


def test_the_kept_channels_are_those_of_the_largest_norm(convnet, arrays):
    before, after = arrays(convnet), arrays(shrink(convnet, BARE, Context()).model)
    norms = (before["c1.w"] ** 2).sum(axis=(1, 2, 3))
    kept = np.sort(np.argsort(norms)[4:])
    np.testing.assert_array_equal(after["c1.w"], before["c1.w"][kept])
    np.testing.assert_array_equal(after["c1.b"], before["c1.b"][kept])


def test_nothing_changes_when_what_goes_is_zero(net, evaluate, arrays):
    model = plain(net)
    for tensor in model.graph.initializer:
        if tensor.name in ("c1", "c2", "f1"):
            array = onnx.numpy_helper.to_array(tensor).copy()
            array[::2] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
        if tensor.name in ("c1.b", "c2.b", "f1.b", "n1.1", "n1.2"):
            array = onnx.numpy_helper.to_array(tensor).copy()
            array[::2] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    made = shrink(model, BARE, Context()).model
    before, after = run_both(evaluate, model, made, net.inputs())
    np.testing.assert_allclose(after, before, atol=1e-5)
    assert weights(made) < weights(model) / 3


@pytest.mark.parametrize("method", ["magnitude", "wanda", "obs"])
def test_the_repair_brings_the_outputs_closer_on_other_rows(net, evaluate, method):
    model, rows, other = plain(net), net.inputs(200), net.inputs(64)
    errors = [
        error(
            evaluate,
            model,
            shrink(model, ShrinkSettings(ratio=0.3, method=method, repair=r), Context(rows)).model,
            other,
        )
        for r in (False, True)
    ]
    assert errors[1] < 0.9 * errors[0]


def test_a_copy_of_a_channel_goes_first_and_costs_nothing(net, evaluate, arrays):
    model = plain(net)
    for tensor in model.graph.initializer:  # channel 7 of c1 becomes channel 2
        if tensor.name == "c1" or tensor.name == "c1.b" or tensor.name.startswith("n1"):
            array = onnx.numpy_helper.to_array(tensor).copy()
            array[7] = array[2]
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    settings = ShrinkSettings(ratio=0.125, exclude=("c2", "f1"))
    made = shrink(model, settings, Context(net.inputs(200))).model
    assert shapes(made)["c1"][0] == 7
    assert error(evaluate, model, made, net.inputs()) < 1e-4


def test_a_residual_sum_ties_what_it_adds(net, evaluate):
    x = net.add("Relu", net.conv("x", "c1", 8, 3))
    for block in "ab":
        y = net.add("Relu", net.conv(x, f"{block}1", 12, 8))
        x = net.add("Relu", net.add("Add", net.conv(y, f"{block}2", 8, 12), x))
    model = net.model(net.head(x, 8))
    made = shrink(model, BARE, Context()).model
    held = shapes(made)
    assert held["c1"][0] == held["a2"][0] == held["b2"][0] == held["a1"][1] == 4
    assert held["a1"][0] == held["b1"][0] == 6
    run_both(evaluate, model, made, net.inputs())


def test_a_concatenation_keeps_its_parts_apart(net, evaluate):
    one, two = net.conv("x", "c1", 8, 3), net.conv("x", "c2", 4, 3)
    both = net.add("Concat", one, "x", two, axis=1)
    x = net.add("Relu", net.conv(both, "c3", 6, 15))
    model = net.model(net.head(x, 6))
    made = shrink(model, BARE, Context()).model
    held = shapes(made)
    assert (held["c1"][0], held["c2"][0], held["c3"]) == (4, 2, (3, 9, 3, 3))
    run_both(evaluate, model, made, net.inputs())


def test_depthwise_layers_shrink_with_what_they_read(net, evaluate):
    x = net.add("Clip", net.conv("x", "c1", 8, 3), net.hold("low", 0.0), net.hold("high", 6.0))
    x = net.norm(net.conv(x, "dw", 8, 8, group=8), "n", 8)
    x = net.conv(net.conv(x, "dw2", 16, 8, group=8), "pw", 12, 16, kernel=1)
    model = net.model(net.head(x, 12))
    made = shrink(model, ShrinkSettings(), Context(net.inputs(64))).model
    held = shapes(made)
    assert (held["dw"], held["dw2"], held["pw"]) == ((4, 1, 3, 3), (8, 1, 3, 3), (6, 8, 1, 1))
    groups = [a.i for n in made.graph.node for a in n.attribute if a.name == "group"]
    assert groups == [1, 4, 4, 1]
    run_both(evaluate, model, made, net.inputs())


def test_grouped_layers_are_left_alone_by_name(net, evaluate):
    x = net.conv(net.conv("x", "c1", 8, 3), "g", 8, 8, group=2)
    x = net.conv(net.add("Relu", x), "c2", 6, 8)
    model = net.model(net.head(x, 6))
    made = shrink(model, BARE, Context())
    assert shapes(made.model)["c1"][0] == 8
    assert shapes(made.model)["c2"][0] == 3
    assert made.notes[1] == "c1 left alone: Conv 'conv1' reads it in 2 groups"
    run_both(evaluate, model, made.model, net.inputs())


def test_squeeze_and_excitation_follows_its_channels(net, evaluate):
    x = net.add("Relu", net.conv("x", "c1", 8, 3))
    s = net.add("Relu", net.conv(net.add("GlobalAveragePool", x), "s1", 4, 8, kernel=1))
    s = net.add("Sigmoid", net.conv(s, "s2", 8, 4, kernel=1))
    x = net.conv(net.add("Mul", x, s), "c2", 6, 8)
    model = net.model(net.head(x, 6))
    made = shrink(model, BARE, Context()).model
    held = shapes(made)
    assert held["c1"][0] == held["s2"][0] == held["c2"][1] == 4
    run_both(evaluate, model, made, net.inputs())


def test_channels_are_followed_through_transposes_and_a_split(net, evaluate):
    x = net.conv("x", "c1", 8, 3)
    x = net.add("Transpose", x, perm=[0, 2, 3, 1])
    x = net.add("Add", net.add("MatMul", x, net.weight("m", 8, 12)), net.weight("m.b", 12))
    left, right = net.add("Split", x, net.hold("sizes", [4, 8]), count=2, axis=3)
    left = net.add("MatMul", left, net.weight("l", 4, 6))
    right = net.add("MatMul", right, net.weight("r", 8, 6))
    x = net.add("Transpose", net.add("Add", left, right), perm=[0, 3, 1, 2])
    model = net.model(net.head(net.add("Relu", x), 6))
    made = shrink(model, BARE, Context()).model
    held = shapes(made)
    assert held["c1"][0] == held["m"][0] == 4
    assert held["l"][0] + held["r"][0] == held["m"][1] == 6
    assert held["l"][1] == held["r"][1] == held["head"][0] == 3
    run_both(evaluate, model, made, net.inputs())


def test_a_shape_that_is_put_together_at_run_time(net, evaluate):
    x = net.add("Relu", net.conv("x", "c1", 8, 3))
    batch = net.add("Gather", net.add("Shape", x), net.hold("zero", [0]), axis=0)
    shape = net.add("Concat", batch, net.hold("rest", [512]), axis=0)
    x = net.add("Reshape", x, shape)
    model = net.model(net.add("Gemm", x, net.weight("f", 512, 5)))
    made = shrink(model, BARE, Context()).model
    assert shapes(made)["f"] == (256, 5)
    run_both(evaluate, model, made, net.inputs())


def test_upsampling_to_a_constant_size(net, evaluate):
    x = net.conv("x", "c1", 8, 3)
    x = net.add("Resize", x, "", "", net.hold("sizes", [2, 8, 16, 16]), mode="nearest")
    x = net.conv(x, "c2", 6, 8)
    net.head(x, 6)
    net.nodes[-1].output[0] = "y"
    model = net.build(net.nodes, net.arrays, [("x", [2, 3, 8, 8])], [("y", [2, 5])])
    made = shrink(model, BARE, Context()).model
    assert shapes(made)["c1"][0] == 4
    run_both(evaluate, model, made, net.inputs(2))


def test_an_lstm_reads_fewer_inputs(build, rng, evaluate):
    net = Net(rng, build, (6,))
    x = net.add("Relu", net.add("MatMul", "x", net.weight("m", 6, 10)))
    net.weight("w", 2, 16, 10), net.weight("r", 2, 16, 4)
    net.nodes.append(
        helper.make_node("LSTM", [x, "w", "r"], ["y"], hidden_size=4, direction="bidirectional")
    )
    model = build(net.nodes, net.arrays, [("x", [5, "n", 6])], [("y", [5, 2, "n", 4])])
    rows = {"x": rng.normal(size=(5, 60, 6)).astype(np.float32)}
    made = shrink(model, ShrinkSettings(), Context(rows)).model
    assert shapes(made)["w"] == (2, 16, 5)
    run_both(evaluate, model, made, rows)


def test_what_mixes_channels_keeps_them_by_name(net, evaluate):
    x = net.add("Softmax", net.conv("x", "c1", 8, 3), axis=1)
    x = net.add("Relu", net.conv(x, "c2", 6, 8))
    model = net.model(net.head(x, 6))
    made = shrink(model, BARE, Context())
    assert shapes(made.model)["c1"][0] == 8
    assert made.notes[1] == "c1 left alone: Softmax 'softmax1' mixes along it"


def test_a_shared_bias_ties_nothing_and_a_shared_weight_does(net, evaluate):
    bias = net.weight("b", 8)
    x = net.add("Conv", "x", net.weight("c1", 8, 3, 1, 1), bias)
    x = net.add("Conv", net.add("Relu", x), net.weight("c2", 8, 8, 1, 1), bias)
    x = net.add("Conv", net.add("Relu", x), "c2", bias)
    model = net.model(net.head(net.add("Relu", x), 8))
    settings = ShrinkSettings(exclude=("c2",))
    with pytest.raises(TechniqueError, match="no channels to remove"):
        shrink(model, settings, Context(net.inputs()))  # c2 reads c1 and itself
    made = shrink(model, ShrinkSettings(), Context(net.inputs(64)))
    assert shapes(made.model)["c2"] == (4, 4, 1, 1)
    assert "c2 is pruned, but not refitted: 2 nodes share it" in made.notes
    run_both(evaluate, model, made.model, net.inputs())


def test_what_a_subgraph_reads_stays(net, evaluate):
    x = net.conv("x", "c1", 8, 3)
    inner = helper.make_graph(
        [helper.make_node("Relu", [x], ["i"])],
        "then",
        [],
        [helper.make_tensor_value_info("i", 1, ["n", 8, 8, 8])],
    )
    other = helper.make_graph(
        [helper.make_node("Neg", [x], ["j"])],
        "else",
        [],
        [helper.make_tensor_value_info("j", 1, ["n", 8, 8, 8])],
    )
    flag = net.add("Greater", net.hold("one", 1.0), net.hold("zero", 0.0))
    x = net.add("If", flag, then_branch=inner, else_branch=other)
    x = net.conv(x, "c2", 6, 8)
    model = net.model(net.head(net.add("Relu", x), 6))
    made = shrink(model, BARE, Context())
    assert shapes(made.model)["c1"][0] == 8
    assert shapes(made.model)["c2"][0] == 3
    assert made.notes[1].startswith("c1 left alone: If 'if")
    run_both(evaluate, model, made.model, net.inputs())


def test_rounding_keeps_multiples_and_at_least_one_channel(net):
    model = plain(net)
    made = shapes(shrink(model, BARE, Context()).model)
    assert made["c2"][0] == 8
    settings = ShrinkSettings(ratio=0.6, round_to=4, method="magnitude", repair=False)
    made = shapes(shrink(model, settings, Context()).model)
    assert (made["c1"][0], made["c2"][0], made["f1"][0]) == (4, 8, 8)
    settings = ShrinkSettings(ratio=0.99, method="magnitude", repair=False)
    made = shapes(shrink(model, settings, Context()).model)
    assert (made["c1"][0], made["c2"][0], made["f1"][0]) == (1, 1, 1)


def test_the_global_scope_takes_the_cheapest_of_all():
    sizes = {0: 4, 1: 4}
    errors = {0: np.array([1.0, 2, 3, np.inf]), 1: np.array([9.0, 8, 9, np.inf])}
    settings = ShrinkSettings(ratio=0.5, scope="global")
    assert keep_counts(sizes, errors, settings) == {0: 1, 1: 3}
    assert keep_counts(sizes, errors, ShrinkSettings(ratio=0.5)) == {0: 2, 1: 2}


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_it_is_deterministic_and_leaves_the_source_alone(net, scope):
    model, rows = plain(net), net.inputs()
    before = model.SerializeToString()
    settings = ShrinkSettings(scope=scope)
    one, two = (shrink(model, settings, Context(rows)).model for _ in range(2))
    assert one.SerializeToString() == two.SerializeToString()
    assert model.SerializeToString() == before


def test_a_ratio_of_nothing_changes_nothing(net):
    model = plain(net)
    made = shrink(model, ShrinkSettings(ratio=0.0, repair=False, method="magnitude"), Context())
    assert made.model.SerializeToString() == model.SerializeToString()
    assert made.notes == ("no channels go at ratio 0, round_to 1",)


def test_a_model_that_would_give_other_outputs_is_refused(net, monkeypatch):
    whole = module.without

    def wrong(model, channels, removed):
        made = whole(model, channels, removed)
        for tensor in made.graph.initializer:
            if tensor.name == "f1":
                array = onnx.numpy_helper.to_array(tensor)[::-1]
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(array), "f1"))
        return made

    monkeypatch.setattr(module, "without", wrong)
    with pytest.raises(TechniqueError, match="taking the channels out changes output 'y' by"):
        shrink(plain(net), BARE, Context())


def test_models_without_channels_to_remove_are_refused(build, net):
    relu = build([helper.make_node("Relu", ["x"], ["y"])], {}, [("x", ["n", 4])], [("y", ["n", 4])])
    with pytest.raises(TechniqueError, match=r"to remove: there are no layers that make any"):
        shrink(relu, BARE, Context())
    model = net.model(net.add("Flatten", net.conv("x", "c1", 8, 3)))
    with pytest.raises(TechniqueError, match=r"to remove: all of them are the model's outputs"):
        shrink(model, BARE, Context())


def test_settings_are_checked(net):
    model = plain(net)
    with pytest.raises(ConfigError, match=r"shrink\.exclude: 'c7' is no weight that makes"):
        shrink(model, ShrinkSettings(exclude=("c7",)), Context(net.inputs()))
    with pytest.raises(ConfigError, match=r"shrink\.ratio must be below 1, got 1"):
        ShrinkSettings(ratio=1.0)
    with pytest.raises(ConfigError, match=r"shrink\.round_to must be at least 1, got 0"):
        ShrinkSettings(round_to=0)
    with pytest.raises(TechniqueError, match="'shrink': needs calibration inputs"):
        apply_recipe(model, Recipe((Step("shrink"),)), Context())


def test_it_comes_before_pruning_and_its_result_can_be_pruned_and_quantized(net, evaluate):
    with pytest.raises(OrderError, match="shrink cannot come after prune: put shrink first"):
        validate_recipe(Recipe((Step("prune"), Step("shrink"))))
    model, rows = plain(net), net.inputs()
    steps = (Step("fold"), Step("shrink"), Step("prune", {"repair": True}), Step("quantize"))
    made = apply_recipe(model, Recipe(steps), Context(rows))
    run_both(evaluate, model, made.model, rows)
    assert made.origin["f2_quantized"] == "f2"


def test_outputs_that_are_all_but_zero_are_not_taken_for_wrong(net):
    x = net.conv(net.add("Relu", net.conv("x", "c1", 16, 3)), "c2", 4, 16)
    x = net.add("Sigmoid", net.add("Sub", x, net.hold("far", 18.0)))
    net.nodes[-1].output[0] = "y"
    out = [("y", ["n", 4, 8, 8])]
    model = net.build(net.nodes, net.arrays, [("x", ["n", *net.shape])], out)
    assert shapes(shrink(model, BARE, Context(net.inputs())).model)["c1"][0] == 8


def test_outputs_that_declare_no_shape_are_no_fault_of_the_smaller_model(net):
    model = plain(net)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    recipe = Recipe((Step("shrink", {"ratio": 0.25}),), "compact")
    made = apply_recipe(model, recipe, Context(calibration=net.inputs()))
    assert weights(made.model) < weights(model)
