"""A trained supernet as a source: kept in one file, sent to other processes, asked for subnets."""

import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper

from mlflow_compress.errors import DataError, SourceError
from mlflow_compress.nas.blocks import Net
from mlflow_compress.nas.elastic import ElasticNet
from mlflow_compress.nas.graph import net_onnx
from mlflow_compress.nas.space import Bounds, Space, Subnet
from mlflow_compress.nas.training import recalibrate

__all__ = ["FILE", "Supernet"]

FILE = "supernet.pt"
"""The file's name within an MLflow model."""

_DAMAGED = (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError)


@dataclass(frozen=True)
class Supernet:
    """A trained supernet; what :class:`~mlflow_compress.techniques.Subnets` asks for.

    Attributes:
        data: the file's bytes: space, shape and weights; it holds no code.
    """

    data: bytes

    @classmethod
    def pack(cls, net: ElasticNet, input_name: str = "input") -> "Supernet":
        """Return a supernet as what can be stored and sent.

        Args:
            net: the supernet.
            input_name: what its input is called in ONNX.
        """
        buffer = io.BytesIO()
        shape = {"channels": net.channels, "size": net.size, "classes": net.classes}
        made = {"space": net.space.model_dump(mode="json"), "shape": shape, "input": input_name}
        torch.save({**made, "weights": net.state_dict()}, buffer)
        return cls(buffer.getvalue())

    @classmethod
    def read(cls, path: Path) -> "Supernet":
        """Read a file that holds :attr:`data`.

        Raises:
            SourceError: it is no supernet.
        """
        found = cls(path.read_bytes())
        try:
            _ = found.net
        except _DAMAGED as error:
            line = " ".join(str(error).split())[:120]
            raise SourceError(f"{path} holds no supernet: {line}") from error
        return found

    @cached_property
    def net(self) -> ElasticNet:
        """The supernet, in evaluation mode."""
        held = torch.load(io.BytesIO(self.data), weights_only=True)
        net = ElasticNet(Space.model_validate(held["space"]), **held["shape"])
        net.load_state_dict(held["weights"])
        return net.eval()

    @cached_property
    def input_name(self) -> str:
        """What the input is called in ONNX."""
        return str(torch.load(io.BytesIO(self.data), weights_only=True)["input"])

    def __reduce__(self) -> tuple[type["Supernet"], tuple[bytes]]:
        """Leave behind what was computed once."""
        return type(self), (self.data,)

    def chosen(self, wanted: Mapping[str, int | str]) -> Subnet:
        """Return the subnet that settings of ``shrink`` mean.

        Raises:
            ConfigError: there is none.
        """
        if "subnet" in wanted:
            subnet = Subnet.parse(str(wanted["subnet"]))
            self.net.space.check(subnet)
            return subnet
        return self.net.space.subnet(Bounds(**{key: int(v) for key, v in wanted.items()}))

    def subnet(self, subnet: Subnet, inputs: Mapping[str, np.ndarray]) -> Net:
        """Return a subnet with recalibrated batch normalisation.

        Raises:
            DataError: the inputs are no images of the supernet's shape.
        """
        net, name = self.net, self.input_name
        wanted = [net.channels, net.size, net.size]
        if name not in inputs or list(inputs[name].shape[1:]) != wanted:
            raise DataError(
                f"the supernet takes {name!r} of [rows, {', '.join(map(str, wanted))}], got "
                + ", ".join(f"{key!r} of {list(rows.shape)}" for key, rows in inputs.items())
            )
        made = net.take(subnet)
        rows = np.ascontiguousarray(inputs[name], dtype=np.float32)
        recalibrate(made, torch.from_numpy(rows))
        return made

    def take(
        self, wanted: Mapping[str, int | str], inputs: Mapping[str, np.ndarray]
    ) -> onnx.ModelProto:
        """See :class:`~mlflow_compress.techniques.Subnets`."""
        subnet = self.chosen(wanted)
        return self.onnx(self.subnet(subnet, inputs), subnet)

    def largest(self) -> onnx.ModelProto:
        """Return the largest network: what stands for the supernet as a source."""
        subnet = self.net.space.subnet()
        return self.onnx(self.net.take(subnet), subnet)

    def onnx(self, net: Net, subnet: Subnet) -> onnx.ModelProto:
        """Return a subnet's network as ONNX, its layers named as in the largest."""
        model = net_onnx(net, self.input_name, self.net.space.names(subnet))
        helper.set_model_props(model, {"subnet": str(subnet)})
        return model
