"""A portable file decodes to the same in onnxruntime, whose functions are ours to the byte."""

import base64
import zlib

import onnx
import portable_models as models
import pytest
from click.testing import CliRunner
from onnx import helper

from mlflow_compress import packed
from mlflow_compress.cli.main import cli
from mlflow_compress.errors import PackedFormatError
from mlflow_compress.packed.format import DOMAIN, HEADER, MAGIC, VERSION, Cursor
from mlflow_compress.packed.portable.known import check_functions
from mlflow_compress.packed.portable.read import INPUTS
from mlflow_compress.packed.portable.write import rest_crc

KINDS = ("Fixed", "Huffman", "Levels", "Sparse", "SparseLevels", "Gaps", "GapsLevels")


def resealed(model):
    """The model with a checksum that fits what it has become."""
    data = base64.b64decode(model.metadata_props.pop().value)
    rest = data[HEADER.size :]
    nodes = [node for node in model.graph.node if node.domain == DOMAIN and node.op_type in INPUTS]
    crc = rest_crc(model, sum(INPUTS[node.op_type] for node in nodes))
    value = base64.b64encode(HEADER.pack(MAGIC, VERSION, crc, zlib.crc32(rest)) + rest).decode()
    model.metadata_props.add(key="mlflow_compress", value=value)
    assert Cursor(data, "directory").take(HEADER.size)
    return model


@pytest.mark.parametrize("opset", [13, 17, 18, 20])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_known(kind, opset):
    made = packed.pack(models.of_kind(kind, opset=opset), "portable")
    assert kind in models.kinds(made)
    check_functions(made)
    packed.verify(made)


def negated(model):
    top = [one for one in model.functions if one.domain == DOMAIN and one.name != "Streams"][-1]
    last = top.node[-1]
    name, last.output[0] = last.output[0], "honest"
    top.node.append(helper.make_node("Neg", ["honest"], [name]))


def other_constant(model):
    for function in model.functions:
        for node in function.node:
            for attribute in node.attribute:
                if attribute.ints:
                    attribute.ints[0] += 1
                    return
    model.functions[0].node[0].doc_string = "changed"


def shadowed(model):
    node = next(one for one in model.functions[-1].node if len(one.output) == 1)
    body = [helper.make_node("Neg", ["a"], ["b"])]
    made = helper.make_function("", node.op_type, ["a"], ["b"], body, [helper.make_opsetid("", 20)])
    functions = [made, *model.functions]
    del model.functions[:]
    model.functions.extend(functions)


def of_a_domain_before(model):
    body = [helper.make_node("Neg", ["a"], ["b"])]
    made = helper.make_function(DOMAIN, "Fixed", ["a"], ["b"], body, [helper.make_opsetid("", 20)])
    functions = [made, *model.functions]
    del model.functions[:]
    model.functions.extend(functions)


@pytest.mark.parametrize("kind", ["Fixed", "Huffman", "SparseLevels"])
@pytest.mark.parametrize("lie", [negated, other_constant, shadowed, of_a_domain_before])
def test_functions_that_compute_something_else_are_refused(kind, lie):
    made = packed.pack(models.of_kind(kind), "portable")
    model = onnx.ModelProto.FromString(made.SerializeToString())
    lie(model)
    with pytest.raises(PackedFormatError, match=r"^functions: "):
        packed.verify(resealed(model).SerializeToString())


def foreign(model):
    body = [helper.make_node("Neg", ["a"], ["b"])]
    opset = [helper.make_opsetid("", 20)]
    model.functions.append(helper.make_function(DOMAIN, "Theirs", ["a"], ["b"], body, opset))


@pytest.mark.parametrize(("lie", "named"), [(negated, "'Fixed'"), (foreign, "'Theirs'")])
def test_what_another_program_wrote_is_named_and_not_sound(tmp_path, lie, named):
    made = packed.pack(models.of_kind("Fixed"), "portable")
    model = onnx.ModelProto.FromString(made.SerializeToString())
    lie(model)
    path = tmp_path / "theirs.onnx"
    path.write_bytes(resealed(model).SerializeToString())
    done = CliRunner().invoke(cli, ["verify", str(path)])
    assert done.exit_code == 1
    assert f"functions: {named}: not as this version writes them" in done.output
    assert "sound" not in done.output
    assert done.output.count("\n") == 1


def test_the_order_of_functions_is_not_known_otherwise():
    model = packed.pack(models.of_kind("Huffman"), "portable")
    functions = list(model.functions)[::-1]
    assert len(functions) > 1
    del model.functions[:]
    model.functions.extend(functions)
    with pytest.raises(PackedFormatError, match="their number or order: not as this version"):
        check_functions(model)
