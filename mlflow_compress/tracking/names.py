"""The names of all that this project writes into MLflow: tags and files of runs.

They are promises: registries and runs that older versions wrote are read by them.
"""

from mlflow_compress.errors import ConfigError

__all__ = [
    "ALIAS_TAG",
    "APPROVAL",
    "BEAT",
    "DIGEST",
    "DROPPED",
    "ERROR",
    "EVIDENCE",
    "EXIT_CODE",
    "EXPERIMENT",
    "FINISHED_BY",
    "GAP",
    "INCUMBENT",
    "JOB_KEY",
    "KEY",
    "KIND",
    "LIMITS_TAG",
    "MEASURED_ON",
    "MODEL",
    "MODEL_URI",
    "NAS_ACCURACY",
    "NAS_LATENCY",
    "NAS_RUN",
    "NAS_SUBNETS",
    "NAS_TARGET",
    "NAS_WEIGHT",
    "NUMBER",
    "OUTCOME",
    "OWNER",
    "PLUGIN_VERSION",
    "PREFIX",
    "QUARANTINE",
    "REASON",
    "RECIPE",
    "RECIPE_JSON",
    "REPORT",
    "REPORT_FILE",
    "RUN_ID",
    "SENSITIVITY_FILE",
    "SETTLED_BY",
    "SHA256",
    "SOURCE",
    "SOURCE_DIGEST",
    "STATE",
    "STRATEGY",
    "TARGET",
    "THREADS",
    "TOKEN",
    "UNIT",
    "VARIANTS_TAG",
    "VERSION",
    "quoted",
    "read_number",
    "variants_name",
]

PREFIX = "compress."

# Of every run.
KIND = PREFIX + "kind"
OWNER = PREFIX + "owner"
TOKEN = PREFIX + "token"
PLUGIN_VERSION = PREFIX + "plugin_version"
SOURCE = PREFIX + "source"
SOURCE_DIGEST = PREFIX + "source_digest"
SHA256 = PREFIX + "sha256"
"""Tag of a run's input: the whole digest of its rows."""

# Of searches and trials.
STRATEGY = PREFIX + "strategy"
KEY = PREFIX + "key"
NUMBER = PREFIX + "number"
RECIPE = PREFIX + "recipe"
RECIPE_JSON = PREFIX + "recipe_json"
ERROR = PREFIX + "error"
UNIT = PREFIX + "accuracy_unit"
"""The accuracy's unit, where it is another than a share."""
DROPPED = PREFIX + "dropped"
REPORT_FILE = "report.json"
SENSITIVITY_FILE = "sensitivity/sensitivity.json"

# Of decisions.
MODEL = PREFIX + "model"
TARGET = PREFIX + "target"
OUTCOME = PREFIX + "outcome"
VERSION = PREFIX + "version"
INCUMBENT = PREFIX + "incumbent"
REASON = PREFIX + "reason"
EVIDENCE = PREFIX + "evidence"
APPROVAL = PREFIX + "approval"
SETTLED_BY = PREFIX + "settled_by"
FINISHED_BY = PREFIX + "finished_by"
MEASURED_ON = PREFIX + "measured_on"
THREADS = PREFIX + "threads"

# Of retraining jobs.
JOB_KEY = PREFIX + "job_key"
STATE = PREFIX + "state"
BEAT = PREFIX + "beat"
EXIT_CODE = PREFIX + "exit_code"

# Of architecture search.
NAS_RUN = PREFIX + "nas.run"
NAS_SUBNETS = PREFIX + "nas.subnets"
NAS_TARGET = PREFIX + "nas.target"
NAS_WEIGHT = PREFIX + "nas.weight"
NAS_ACCURACY = PREFIX + "nas.accuracy"
NAS_LATENCY = PREFIX + "nas.latency_ms"

# Of versions of a registered model.
MODEL_URI = PREFIX + "model_uri"
RUN_ID = PREFIX + "run_id"
REPORT = PREFIX + "report"
DIGEST = PREFIX + "digest"
"""Digests of the tags that decide."""
GAP = PREFIX + "gap."
"""Per target: what the version that comes closest misses."""
QUARANTINE = PREFIX + "quarantine."
"""Per target, of a version; and of the registered model, where it outlives the version."""

# Of registered models.
VARIANTS_TAG = PREFIX + "variants"
"""It holds variants."""
ALIAS_TAG = PREFIX + "promoted."
"""Per target: the version that promotion last put the alias on."""
LIMITS_TAG = PREFIX + "limits."
"""Per target: the digest of the limits that promotion last had.

Decisions keep the limits themselves, in runs, which those may write who may edit the experiment.
"""
EXPERIMENT = PREFIX + "experiment."
"""Per experiment that decisions on it are written to."""

_DIGITS = 18


def quoted(text: str) -> str:
    """Return ``text`` as MLflow's search filters take it.

    Raises:
        ConfigError: it has both kinds of quotes, which no filter can say.
    """
    if "'" not in text:
        return f"'{text}'"
    if '"' not in text:
        return f'"{text}"'
    raise ConfigError(f"{text!r} has both kinds of quotes, which MLflow cannot search for")


def read_number(text: str) -> int | None:
    """Read a number out of a tag that anybody may have written; None when it is none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _DIGITS else None


def variants_name(source: str, given: str | None = None) -> str:
    """Return the registered model that a source's variants are versions of.

    Args:
        source: the source's name.
        given: what the configuration names (``register_as``).
    """
    return given or f"{source}-edge"
