"""What the installed plugin adds to ``import mlflow``, in fresh processes.

    python benchmarks/import_time.py [--pairs N] [STATEMENT ...]

Every process sees this environment's packages; every second one also the plugin with its entry
points, which is what having it installed comes to. The two take turns, and the order within a pair
too. Three answers, from the most to the least disturbed by what else the machine does: the medians
of wall clock and CPU time with a 95 % bootstrap of the pairs' median difference; the difference of
the least CPU times, for others' work only ever adds; and how long the plugin's entry points take to
load, by a clock around that alone. Writes ``benchmarks/out/import_time.json``.
"""

import argparse
import json
import random
import subprocess
import sys
import sysconfig
import tempfile
from importlib.metadata import distribution
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
OUT = HERE / "out" / "import_time.json"
PACKAGE = "mlflow_compress"
STATEMENTS = ("import mlflow", "import mlflow.cli")
CHILD = """
import sys
sys.path[:] = {path!r}
import json, time
wall, cpu = time.perf_counter(), time.process_time()
{statement}
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
print(json.dumps([wall, cpu, "mlflow_compress.mlflow_plugin.context" in sys.modules]))
"""
LOADS = """
import sys
sys.path[:] = {path!r}
import importlib.metadata, time
spent, real = [], importlib.metadata.EntryPoint.load
def load(self):
    start = time.perf_counter()
    try:
        return real(self)
    finally:
        if self.value.startswith("mlflow_compress."):
            spent.append(1000 * (time.perf_counter() - start))
importlib.metadata.EntryPoint.load = load
{statement}
assert spent
print(sum(spent))
"""


def environments(folder: Path) -> dict[str, list[str]]:
    """Return the import path without and with the plugin."""
    mirror, plugin = folder / "site", folder / "plugin"
    mirror.mkdir()
    plugin.mkdir()
    standard = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")]
    standard.append(str(Path(sysconfig.get_path("stdlib")) / "lib-dynload"))
    for name in ("purelib", "platlib"):
        for entry in Path(sysconfig.get_path(name)).iterdir():
            if not entry.name.startswith(PACKAGE) and not (mirror / entry.name).exists():
                (mirror / entry.name).symlink_to(entry)
    installed = distribution("mlflow-compress")
    (plugin / PACKAGE).symlink_to(HERE.parent / PACKAGE)
    info = plugin / f"{PACKAGE}-{installed.version}.dist-info"
    info.mkdir()
    for file in ("METADATA", "entry_points.txt"):
        text = installed.read_text(file) or (installed.read_text("PKG-INFO") or "")
        (info / file).write_text(text)
    without = [*dict.fromkeys(standard), str(mirror)]
    return {"without": without, "with": [*without, str(plugin)]}


def once(path: list[str], statement: str, has_plugin: bool) -> tuple[float, float]:
    """Return wall and CPU seconds of one fresh process."""
    code = CHILD.format(path=path, statement=statement)
    # -S and -I: nothing that .pth files or the user's own settings would bring in
    wall, cpu, loaded = json.loads(
        subprocess.check_output([sys.executable, "-S", "-I", "-c", code])
    )
    if loaded != has_plugin:
        raise SystemExit(f"the plugin is {'' if loaded else 'not '}loaded where it must not be so")
    return wall, cpu


def inside(path: list[str], statement: str, runs: int) -> float:
    """Return the median milliseconds that the plugin's entry points take to load."""
    command = [sys.executable, "-S", "-I", "-c", LOADS.format(path=path, statement=statement)]
    return median(float(subprocess.check_output(command)) for _ in range(runs))


def interval(differences: list[float]) -> tuple[float, float]:
    """Return a bootstrap interval of the median."""
    draw = random.Random(0)
    size = len(differences)
    medians = sorted(median(draw.choices(differences, k=size)) for _ in range(2000))
    return medians[50], medians[1949]


def measure(paths: dict[str, list[str]], statement: str, pairs: int) -> list[dict[str, object]]:
    """Return a row for wall clock and one for CPU time, in milliseconds."""
    got: dict[str, list[tuple[float, float]]] = {name: [] for name in paths}
    for number in range(-1, pairs):
        names = list(paths) if number % 2 else list(reversed(paths))
        for name in names:
            seconds = once(paths[name], statement, name == "with")
            if number >= 0:  # the first pair fills the caches
                got[name].append(seconds)
    rows = []
    for column, clock in enumerate(("wall", "cpu")):
        without, with_it = ([1000 * s[column] for s in got[name]] for name in ("without", "with"))
        added = [b - a for a, b in zip(without, with_it, strict=True)]
        low, high = interval(added)
        rows.append(
            {
                "statement": statement,
                "clock": clock,
                "without_ms": median(without),
                "with_ms": median(with_it),
                "ratio": median(with_it) / median(without),
                "added_ms": median(added),
                "added_low_ms": low,
                "added_high_ms": high,
                "added_least_ms": min(with_it) - min(without),
                "pairs": pairs,
            }
        )
    return rows


def main() -> None:
    """Measure, print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--pairs", type=int, default=20, help="pairs per statement [20]")
    parser.add_argument("statements", nargs="*", default=STATEMENTS, metavar="STATEMENT")
    options = parser.parse_args()
    table, own = [], {}
    with tempfile.TemporaryDirectory() as folder:
        paths = environments(Path(folder))
        for statement in options.statements:
            table += measure(paths, statement, options.pairs)
            own[statement] = inside(paths["with"], statement, max(options.pairs // 2, 1))
    print(
        f"{'':18} {'clock':5} {'without':>9} {'with':>9} {'ratio':>6}  added, 95 % interval, least"
    )
    for row in table:
        print(
            f"{row['statement']:18} {row['clock']:5} {row['without_ms']:6.0f} ms "
            f"{row['with_ms']:6.0f} ms {row['ratio']:6.3f}  {row['added_ms']:+.1f} ms, "
            f"{row['added_low_ms']:+.1f} to {row['added_high_ms']:+.1f}, "
            f"{row['added_least_ms']:+.1f}"
        )
    for statement, milliseconds in own.items():
        print(f"{statement:18} the plugin's entry points load in {milliseconds:.1f} ms")
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({"rows": table, "inside_ms": own}, indent=2))


if __name__ == "__main__":
    main()
