"""What this project makes of a model, by its command line."""

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from real.cases import Case
from real.store import Store

_MAIN = "from mlflow_compress.cli.main import main; main()"
_LOSSLESS = 3  # exit code: nothing but lossless packing passed
_OUTPUT = re.compile(r"^\s*output `?'?\"?(?P<name>[^`'\"]+?)[`'\"]*: (?P<kind>.+)$")


@dataclass(frozen=True)
class Ours:
    """A run of ``mlflow-compress compress``: exit code, seconds of CPU time, all it said."""

    arguments: tuple[str, ...]
    code: int
    seconds: float
    said: str
    progress: str

    @property
    def is_lossless(self) -> bool:
        """Whether no lossy recipe passed its gate."""
        return self.code == _LOSSLESS

    @property
    def error(self) -> str:
        """The last line of what went wrong, if something did."""
        if self.code in (0, _LOSSLESS):
            return ""
        return (self.progress.strip().splitlines() or [f"exit code {self.code}"])[-1]

    @property
    def kinds(self) -> Mapping[str, str]:
        """Each output's kind as it was said."""
        found = (_OUTPUT.match(line) for line in f"{self.progress}\n{self.said}".splitlines())
        return {match["name"]: match["kind"] for match in found if match}

    @property
    def gates(self) -> tuple[str, ...]:
        """What the result was held to, and how it did."""
        lines = self.said.splitlines()
        return tuple(line.removeprefix("gate: ") for line in lines if line.startswith("gate: "))


def make(case: Case, store: Store, options: tuple[str, ...]) -> Ours:
    """Run ``compress`` unless the same run is there already; ``options`` go before the case's."""
    out, notes = store.made(case.name, "ours"), store.made(case.name, "ours", ".json")
    calibration = store.data(case.name, "cal")
    arguments = (*options, *case.arguments)
    if notes.is_file():
        kept = json.loads(notes.read_text())
        kept["arguments"] = tuple(kept["arguments"])
        if kept["arguments"] == arguments:
            return Ours(**kept)
    out.unlink(missing_ok=True)
    files = [store.model(case.name), "-o", out, "--calibration", calibration]
    command = [sys.executable, "-c", _MAIN, "compress", *map(str, files), *arguments]
    before = _children()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
    seconds = round(_children() - before, 1)
    ours = Ours(arguments, done.returncode, seconds, done.stdout, done.stderr)
    if not ours.error:
        notes.write_text(json.dumps(asdict(ours), indent=1))
    return ours


def _environment() -> dict[str, str]:
    project = str(Path(__file__).parents[2])
    paths = [project, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
