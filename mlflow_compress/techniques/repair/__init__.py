"""``repair``: bring a compressed model"s outputs back towards the source"s, without labels."""

from mlflow_compress.techniques.repair.settings import RepairSettings
from mlflow_compress.techniques.repair.technique import TECHNIQUE, Repair

__all__ = ["TECHNIQUE", "Repair", "RepairSettings"]
