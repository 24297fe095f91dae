"""Architecture search for edge devices: networks whose shape is chosen per target. Needs torch."""

from mlflow_compress.nas.blocks import Block, Net
from mlflow_compress.nas.graph import block_onnx, net_onnx
from mlflow_compress.nas.latency import (
    LatencyTable,
    calibrate,
    measure_nets,
    measure_table,
    ranks_agree,
)
from mlflow_compress.nas.specs import BlockSpec, NetSpec
from mlflow_compress.nas.training import (
    Images,
    Schedule,
    accuracy,
    fit_net,
    logits,
    recalibrate,
)

__all__ = [
    "Block",
    "BlockSpec",
    "Images",
    "LatencyTable",
    "Net",
    "NetSpec",
    "Schedule",
    "accuracy",
    "block_onnx",
    "calibrate",
    "fit_net",
    "logits",
    "measure_nets",
    "measure_table",
    "net_onnx",
    "ranks_agree",
    "recalibrate",
]
