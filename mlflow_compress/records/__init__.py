"""What the rooms hand to each other: plain, frozen, JSON-able records."""

from mlflow_compress.records.basics import Bound, DatasetRef, Interval, Side
from mlflow_compress.records.kinds import (
    Accuracy,
    Decision,
    Gate,
    Latency,
    LayerReport,
    Memory,
    Needs,
    OperatorTime,
    Profile,
    Recipe,
    Report,
    StageReport,
    Step,
    Trial,
    Variant,
)
from mlflow_compress.records.layout import InputLayout, InputSpec, Layout
from mlflow_compress.records.measures import DEFAULTS, MEASURES, MEASURES_OF, RUINED, Measure
from mlflow_compress.records.outputs import KINDS, Fidelity, Kind, Output, OutputFidelity
from mlflow_compress.records.place import LOCAL, Place
from mlflow_compress.records.plain import canonical_json, digest_of, from_dict, to_dict
from mlflow_compress.records.units import (
    change_unit,
    format_change,
    format_drop,
    format_score,
    shown_change,
)

__all__ = [
    "DEFAULTS",
    "KINDS",
    "LOCAL",
    "MEASURES",
    "MEASURES_OF",
    "RUINED",
    "Accuracy",
    "Bound",
    "DatasetRef",
    "Decision",
    "Fidelity",
    "Gate",
    "InputLayout",
    "InputSpec",
    "Interval",
    "Kind",
    "Latency",
    "LayerReport",
    "Layout",
    "Measure",
    "Memory",
    "Needs",
    "OperatorTime",
    "Output",
    "OutputFidelity",
    "Place",
    "Profile",
    "Recipe",
    "Report",
    "Side",
    "StageReport",
    "Step",
    "Trial",
    "Variant",
    "canonical_json",
    "change_unit",
    "digest_of",
    "format_change",
    "format_drop",
    "format_score",
    "from_dict",
    "shown_change",
    "to_dict",
]
