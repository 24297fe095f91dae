"""Real models of many kinds, judged by what each is for, beside two tools' static int8.

    pip install torch==2.13.0 '.[bench]'
    apt-get install espeak-ng fonts-dejavu fonts-liberation
    python benchmarks/kinds.py --models orientation,ocr_rec

Packages bring the models; rows are photographs that packages ship, drawn pages, and speech by
espeak-ng. Tools see the calibration rows. Everything is scored once on other rows, which had no
part in anything, by the task's own metric against the source (or labels, where there are any).

"Smaller" means fewer bytes than the peer's file, as it is and after zstd -19. "As good" means that
the metric is no less than the peer's, or no less than the source's own where the peer's is better
by luck. Models, rows and what tools made are kept in ``--out`` and used again; without ``--models``
all are run. A model's results are in ``results`` there when it is done, all of them in
``kinds.json``; a run that was stopped goes on where it was.
"""

import argparse
import json
import shlex
import sys
import warnings
from pathlib import Path
from typing import Any

from onnxruntime import InferenceSession, set_default_logger_severity
from real import ours, peers
from real.cases import CASES, Case
from real.sessions import opened
from real.store import Store
from real.table import PEERS, compare, line, table

from mlflow_compress import packed

OUT = Path(__file__).parent / "out" / "kinds"


def judged(case: Case, store: Store, options: argparse.Namespace) -> dict[str, Any]:
    """Return a model's row of the table, everything made that was not there."""
    case.prepare(store)
    source = store.model(case.name)
    rows = store.rows(case.name, "eval")
    wanted = case.run(opened(source), rows, store)
    held = case.score(wanted, wanted, rows.truth)
    row: dict[str, Any] = {"model": case.name, "kind": case.kind, "source": held}
    row["bytes"] = source.stat().st_size

    def entry(file: Path, session: InferenceSession) -> dict[str, Any]:
        scores = case.score(wanted, case.run(session, rows, store), rows.truth)
        size = file.stat().st_size
        return {"bytes": size, "zstd": peers.zipped(file), "scores": scores}

    for tool in PEERS if options.only in (None, "peers") else ():
        made = peers.make(case, tool, store)
        file = store.made(case.name, tool)
        row[tool] = {"how": made.how, "seconds": made.seconds, "error": made.error}
        if not made.error:
            row[tool] |= entry(file, opened(file))
    if options.only in (None, "ours"):
        row["ours"] = _ours(case, store, options, entry)
    return row


def _ours(case: Case, store: Store, options: argparse.Namespace, entry: Any) -> dict[str, Any]:
    general = ("--profile", "compact", "--effort", str(options.effort))
    made = ours.make(case, store, (*general, *shlex.split(options.arguments)))
    result: dict[str, Any] = {
        "arguments": " ".join(made.arguments),
        "seconds": made.seconds,
        "error": made.error,
        "kinds": made.kinds,
        "gates": made.gates,
        "lossless": made.is_lossless,
    }
    if not made.error:
        file = store.made(case.name, "ours")
        result |= entry(file, packed.load(file, threads=1))
    return result


def main() -> None:
    known = {case.name: case for case in CASES}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--models", default=",".join(known), help="comma-separated")
    parser.add_argument("--only", choices=("peers", "ours"))
    parser.add_argument("--effort", type=int, default=3)
    parser.add_argument("--arguments", default="", help="more of them for `compress`, for all")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--table", action="store_true", help="print what is there, run nothing")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    set_default_logger_severity(4)  # the tools open models that onnxruntime has hints for
    store = Store(options.out.resolve())
    names = options.models.split(",")
    if unknown := [name for name in names if name not in known]:
        parser.error(f"no such model: {', '.join(unknown)}; there are {', '.join(known)}")
    for name in () if options.table else names:
        row = judged(known[name], store, options)
        row = store.result(name) | row
        compare(row)
        store.keep_result(name, row)
        print(line(row), file=sys.stderr, flush=True)
    rows = [row for name in names if (row := store.result(name))]
    (store.root / "kinds.json").write_text(json.dumps(rows, indent=1))
    print(table(rows))


if __name__ == "__main__":
    main()
