"""Architecture search for edge devices: networks whose shape is chosen per target. Needs torch."""

from mlflow_compress.errors import MissingDependencyError

try:
    import torch as _torch  # noqa: F401
except ImportError:
    raise MissingDependencyError(
        "architecture search needs PyTorch: pip install 'mlflow-compress[torch]'"
    ) from None

from mlflow_compress.nas.blocks import Block, Net
from mlflow_compress.nas.elastic import ElasticNet
from mlflow_compress.nas.graph import block_onnx, net_onnx
from mlflow_compress.nas.latency import (
    LatencyTable,
    calibrate,
    measure_nets,
    measure_table,
    ranks_agree,
)
from mlflow_compress.nas.path_search import FoundPath, PathEpoch, gate_rows, retrain, search_paths
from mlflow_compress.nas.path_settings import PathSettings
from mlflow_compress.nas.path_space import PathSpace, block_label
from mlflow_compress.nas.paths import PathNet
from mlflow_compress.nas.predictor import Predictor
from mlflow_compress.nas.progressive import Progress, TrainingPlan, phases, train_supernet
from mlflow_compress.nas.space import Bounds, Opened, Space, Stage, Subnet
from mlflow_compress.nas.specialize import (
    Evolution,
    Found,
    ShrinkStep,
    TargetSearch,
    shrink_path,
    specialize,
    spread,
)
from mlflow_compress.nas.specs import BlockSpec, NetSpec
from mlflow_compress.nas.supernet import FILE as SUPERNET_FILE
from mlflow_compress.nas.supernet import Supernet
from mlflow_compress.nas.training import (
    Images,
    Schedule,
    accuracy,
    fit_net,
    logits,
    mixed_rows,
    recalibrate,
)

__all__ = [
    "SUPERNET_FILE",
    "Block",
    "BlockSpec",
    "Bounds",
    "ElasticNet",
    "Evolution",
    "Found",
    "FoundPath",
    "Images",
    "LatencyTable",
    "Net",
    "NetSpec",
    "Opened",
    "PathEpoch",
    "PathNet",
    "PathSettings",
    "PathSpace",
    "Predictor",
    "Progress",
    "Schedule",
    "ShrinkStep",
    "Space",
    "Stage",
    "Subnet",
    "Supernet",
    "TargetSearch",
    "TrainingPlan",
    "accuracy",
    "block_label",
    "block_onnx",
    "calibrate",
    "fit_net",
    "gate_rows",
    "logits",
    "measure_nets",
    "measure_table",
    "mixed_rows",
    "net_onnx",
    "phases",
    "ranks_agree",
    "recalibrate",
    "retrain",
    "search_paths",
    "shrink_path",
    "specialize",
    "spread",
    "train_supernet",
]
