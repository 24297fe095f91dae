"""Runs an ONNX model in PyTorch, so that any ONNX source can be trained.

Conv, Gemm, MatMul and BatchNormalization become layers of ``torch.nn``, which libraries that work
on modules find; other operators are functions (:mod:`~.torch_operators`). Trained values go back
into the *original* graph, so nothing is exported again.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, numpy_helper
from torch import Tensor, nn

from mlflow_compress.errors import TechniqueError
from mlflow_compress.techniques.graph.running import session
from mlflow_compress.techniques.graph.walk import (
    clone,
    initializers,
    node_label,
    opset,
    set_initializer,
    subgraphs,
)
from mlflow_compress.techniques.training.operators import OPERATORS
from mlflow_compress.techniques.training.spec import Spec
from mlflow_compress.techniques.training.windows import convolve

__all__ = ["AnyBatchNorm", "GraphConv", "Interpreter", "check_interpreter"]

_TOLERANCE = 1e-4
"""Largest difference to onnxruntime, relative to the largest output: sums in another order stay
two orders of magnitude below it."""

_TRAINED = {
    "Add": (0, 1),
    "BatchNormalization": (1, 2),
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Div": (0, 1),
    "Gather": (0,),
    "Gemm": (0, 1, 2),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "MatMul": (0, 1),
    "Mul": (0, 1),
    "PRelu": (1,),
    "Sub": (0, 1),
}
"""The inputs of each operator that are learned where they are float initializers."""


@dataclass(frozen=True)
class _Place:
    """Where an initializer's values live in the module."""

    tensor: Tensor
    transposed: bool = False
    shape: tuple[int, ...] | None = None


class GraphConv(nn.Module):
    """A convolution with padding that ``torch.nn`` does not know: unequal, or by a name."""

    def __init__(self, spec: Spec, conv: nn.Module) -> None:
        super().__init__()
        self.spec = spec
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """Convolve [batch, channels, ...]."""
        return convolve(self.spec, x, self.conv.weight, self.conv.bias)


class AnyBatchNorm(nn.BatchNorm2d):
    """Batch normalisation of inputs of any rank."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Take every rank."""


class Interpreter(nn.Module):
    """A module that computes what an ONNX model computes.

    Float initializers in the places where models learn (weights, biases, normalisation, embedding
    tables) are parameters; all other constants are buffers. Initializers used by several nodes
    are one parameter.

    Attributes:
        inputs: names of the model's inputs, in order.
        outputs: names of the model's outputs, in order.
    """

    def __init__(self, model: ModelProto) -> None:
        """Build the module from a normalised model (see :func:`normalize`).

        Raises:
            TechniqueError: an operator, an attribute or a data type that is not known here; the
                message names the node.
        """
        super().__init__()
        self._model = model
        self._nodes = list(model.graph.node)
        self.inputs = [value.name for value in model.graph.input]
        self.outputs = [value.name for value in model.graph.output]
        self.layers = nn.ModuleDict()
        self.values = nn.ParameterDict()
        self._places: dict[str, _Place] = {}
        self._constants: dict[str, str] = {}
        self._specs = [self._spec(node) for node in self._nodes]
        held = initializers(model)
        users = _users(model)
        for index, node in enumerate(self._nodes):
            layer = self._layer(node, self._specs[index], held, users)
            if layer is not None:
                self.layers[str(index)] = layer
        for index, (name, tensor) in enumerate(held.items()):
            if name not in self._places:
                self._add_value(index, tensor, users.get(name, []))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the model's outputs for its inputs, both in the model's order."""
        known: dict[str, Tensor] = dict(zip(self.inputs, inputs, strict=True))
        for name, place in self._constants.items():
            known[name] = self.get_buffer(place)
        for name, held in self._places.items():
            known.setdefault(name, held.tensor)
        for index, node in enumerate(self._nodes):
            key = str(index)
            if key in self.layers:
                made: Any = self.layers[key](known[node.input[0]])
            else:
                values = [known[name] if name else None for name in node.input]
                made = OPERATORS[node.op_type](self._specs[index], values)
            results = made if isinstance(made, tuple) else (made,)
            known.update(zip(node.output, results, strict=False))
        return tuple(known[name] for name in self.outputs)

    def trained(self) -> dict[str, Tensor]:
        """Return the parameters by the name of their initializer, in the order of the graph."""
        return {
            name: place.tensor
            for name, place in self._places.items()
            if isinstance(place.tensor, nn.Parameter)
        }

    def layer_of(self, name: str) -> nn.Module | None:
        """Return the layer that holds an initializer as its weight, or None."""
        for layer in self.layers.values():
            inner = layer.conv if isinstance(layer, GraphConv) else layer
            if getattr(inner, "weight", None) is self._places[name].tensor:
                return layer
        return None

    def stored(self, name: str, values: Tensor | None = None) -> np.ndarray:
        """Return an initializer's values (or others in its place) in its own layout and shape."""
        place = self._places[name]
        values = (place.tensor if values is None else values).detach()
        array = (values.mT if place.transposed else values).numpy()
        return np.ascontiguousarray(array if place.shape is None else array.reshape(place.shape))

    def write_back(self) -> ModelProto:
        """Return a copy of the original model that holds the module's values.

        Untouched values come back bit for bit.
        """
        model = clone(self._model)
        for tensor in model.graph.initializer:
            if tensor.name in self._places:
                values = self.stored(tensor.name)
                if (
                    values.tobytes()
                    != np.ascontiguousarray(numpy_helper.to_array(tensor)).tobytes()
                ):
                    set_initializer(tensor, values)
        return model

    def _spec(self, node: NodeProto) -> Spec:
        label = node_label(node)
        if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
            raise TechniqueError(
                f"{label}: training does not know this operator"
                + (f" of domain {node.domain!r}" if node.domain else "")
            )
        if any(True for _ in subgraphs(node)):
            raise TechniqueError(f"{label}: training does not go through nested graphs")
        attributes = {item.name: _attribute(item) for item in node.attribute}
        if node.op_type == "BatchNormalization" and attributes.get("training_mode", 0):
            raise TechniqueError(f"{label}: is in training mode")
        return Spec(label, attributes, opset(self._model), len(node.output))

    def _layer(
        self, node: NodeProto, spec: Spec, held: Mapping[str, TensorProto], users: "_Users"
    ) -> nn.Module | None:
        """Make the ``torch.nn`` layer of a node whose weights are its own, or None."""
        names = [name for name in node.input[1:] if name]
        if not names or any(n not in held or len(users.get(n, [])) != 1 for n in names):
            return None
        tensors = [held[name] for name in names]
        if any(tensor.data_type != TensorProto.FLOAT for tensor in tensors):
            return None
        makers: dict[str, Callable[..., nn.Module | None]] = {
            "Conv": self._conv,
            "Gemm": self._linear,
            "MatMul": self._linear,
            "BatchNormalization": self._batch_norm,
        }
        maker = makers.get(node.op_type)
        return None if maker is None else maker(spec, tensors)

    def _conv(self, spec: Spec, tensors: list[TensorProto]) -> nn.Module | None:
        weight = _values(tensors[0])
        kinds: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
        if weight.dim() - 2 not in kinds:
            return None
        group, rank = spec.get("group", 1), weight.dim() - 2
        pads = list(spec.get("pads") or [0] * 2 * rank)
        plain = spec.get("auto_pad", "NOTSET") == "NOTSET" and pads[:rank] == pads[rank:]
        conv: nn.Module = kinds[rank](
            weight.shape[1] * group,
            weight.shape[0],
            tuple(weight.shape[2:]),
            stride=tuple(spec.get("strides") or [1] * rank),
            padding=tuple(pads[:rank]) if plain else 0,
            dilation=tuple(spec.get("dilations") or [1] * rank),
            groups=group,
            bias=len(tensors) > 1,
        )
        self._hold(conv, "weight", tensors[0])
        if len(tensors) > 1:
            self._hold(conv, "bias", tensors[1])
        return conv if plain else GraphConv(spec, conv)

    def _linear(self, spec: Spec, tensors: list[TensorProto]) -> nn.Module | None:
        shape = tuple(tensors[0].dims)
        plain = not spec.get("transA", 0) and spec.get("alpha", 1.0) == spec.get("beta", 1.0) == 1
        if len(shape) != 2 or not plain:
            return None
        transposed = not spec.get("transB", 0)
        rows, columns = reversed(shape) if transposed else shape
        if len(tensors) > 1 and int(np.prod(tensors[1].dims)) != rows:
            return None
        linear = nn.Linear(columns, rows, bias=len(tensors) > 1)
        self._hold(linear, "weight", tensors[0], transposed=transposed)
        if len(tensors) > 1:
            self._hold(linear, "bias", tensors[1], shape=tuple(tensors[1].dims))
        return linear

    def _batch_norm(self, spec: Spec, tensors: list[TensorProto]) -> nn.Module | None:
        norm = AnyBatchNorm(
            tensors[0].dims[0], spec.get("epsilon", 1e-5), 1 - spec.get("momentum", 0.9)
        )
        for name, tensor in zip(
            ("weight", "bias", "running_mean", "running_var"), tensors, strict=True
        ):
            self._hold(norm, name, tensor)
        return norm

    def _hold(
        self,
        layer: nn.Module,
        attribute: str,
        tensor: TensorProto,
        *,
        transposed: bool = False,
        shape: tuple[int, ...] | None = None,
    ) -> None:
        values = _values(tensor)
        target: Tensor = getattr(layer, attribute)
        with torch.no_grad():
            target.copy_((values.mT if transposed else values).reshape(target.shape))
        self._places[tensor.name] = _Place(target, transposed, shape)

    def _add_value(self, index: int, tensor: TensorProto, roles: list[tuple[str, int]]) -> None:
        learned = (
            tensor.data_type == TensorProto.FLOAT
            and int(np.prod(tensor.dims)) > 1
            and any(place in _TRAINED.get(op_type, ()) for op_type, place in roles)
        )
        if learned:
            self.values[str(index)] = nn.Parameter(_values(tensor))
            self._places[tensor.name] = _Place(self.values[str(index)])
        else:
            self.register_buffer(f"constant_{index}", _values(tensor), persistent=False)
            self._constants[tensor.name] = f"constant_{index}"


_Users = dict[str, list[tuple[str, int]]]


def _users(model: ModelProto) -> _Users:
    found: _Users = {}
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            found.setdefault(name, []).append((node.op_type, index))
    for value in model.graph.output:
        found.setdefault(value.name, []).append(("output", 0))
    return found


def _values(tensor: TensorProto) -> Tensor:
    try:
        return torch.from_numpy(np.array(numpy_helper.to_array(tensor)))
    except TypeError as error:
        kind = TensorProto.DataType.Name(tensor.data_type)
        raise TechniqueError(f"tensor {tensor.name!r}: training does not know {kind}") from error


def _attribute(item: AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(item)
    return _values(value) if item.type == AttributeProto.TENSOR else value


def check_interpreter(
    module: Interpreter, model: ModelProto, inputs: Mapping[str, np.ndarray]
) -> None:
    """Compare the module's outputs with onnxruntime's on a few rows.

    Raises:
        TechniqueError: they differ by more than rounding.
    """
    was_training = module.training
    module.eval()
    with torch.no_grad():
        got = module(*(torch.from_numpy(np.ascontiguousarray(inputs[n])) for n in module.inputs))
    module.train(was_training)
    expected = session(model).run(None, dict(inputs))
    for name, made, wanted in _pairs(module.outputs, got, expected):
        scale = max(1.0, float(np.abs(wanted).max(initial=0.0)))
        worst = float(np.abs(made - wanted).max(initial=0.0))
        if made.shape != wanted.shape or not worst <= _TOLERANCE * scale:
            raise TechniqueError(
                f"training would not see the model that runs: output {name!r} differs from "
                f"onnxruntime's by {worst:.3g} (allowed: {_TOLERANCE * scale:.3g})"
            )


def _pairs(
    names: list[str], got: tuple[Tensor, ...], expected: list[np.ndarray]
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    for name, made, wanted in zip(names, got, expected, strict=True):
        yield name, made.numpy().astype(np.float64), wanted.astype(np.float64)
