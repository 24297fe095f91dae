"""Tries thousands of examples: ``python -m tests.fuzz_cli.campaign --examples 10000``.

Every finding is printed once, with how often it was seen; what led to it is kept in ``--out``, and
``--again FILE`` tries one of those again.
"""

import argparse
import collections
import multiprocessing
import os
import pickle
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz_cli.examples import Example, examples
from tests.fuzz_cli.running import Place, findings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("fuzz-cli-findings"))
    parser.add_argument("--again", type=Path)
    options = parser.parse_args()
    if options.again:
        sys.exit(_again(options.again))
    options.out.mkdir(parents=True, exist_ok=True)
    each = -(-options.examples // options.jobs)
    jobs = [
        multiprocessing.get_context("spawn").Process(
            target=_try, args=(each, options.seed * 1000 + at, options.out)
        )
        for at in range(options.jobs)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    found = sorted(options.out.glob("*.pickle"))
    print(f"examples={each * options.jobs} findings={len(found)}")
    sys.exit(bool(found) or any(job.exitcode for job in jobs))


def _try(count: int, number: int, out: Path) -> None:
    folder = Path(tempfile.mkdtemp(prefix="fuzz-cli-"))
    place = Place(folder)
    codes: collections.Counter[int] = collections.Counter()
    words: collections.Counter[str] = collections.Counter()
    messages: collections.Counter[str] = collections.Counter()
    started = time.monotonic()

    @seed(number)
    @settings(max_examples=count, database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(examples(place.artifacts, place.folder / "template"))
    def attempt(example: Example) -> None:
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():  # it was killed, and waits for nothing
            os._exit(1)
        found, done = findings(example, place)
        codes[done.code] += 1
        words[" ".join(example.argv[:1])] += 1
        if done.code:
            last = re.sub(r"\d+|/\S+", "N", "".join(done.err.splitlines()[-1:]))[:160]
            messages[f"{example.argv[0]} {done.code}: {last}"] += 1
        if sum(codes.values()) % 100 == 0:
            seconds = time.monotonic() - started
            print(f"[{number}] {sum(codes.values())} in {seconds:.0f} s, exit codes {dict(codes)}")
            sys.stdout.flush()
        for one in found:
            name = re.sub(r"\W+", "-", re.sub(r"\d+|0x\w+", "N", one))[:120].strip("-")
            kept = out / f"{example.argv[0]}-{name}.pickle"
            if not kept.exists():
                kept.write_bytes(pickle.dumps((example, one, done)))
                print(f"FINDING {one}\n   {kept.name}\n   {_shown(example)}")
                sys.stdout.flush()

    attempt()
    shutil.rmtree(folder)
    told = [f"{times:5} {message}" for message, times in messages.most_common()]
    (out / f"messages-{number}.txt").write_text("\n".join(told))
    print(f"[{number}] ended: exit codes {dict(codes)}, commands {dict(words)}")


def _shown(example: Example) -> str:
    files = {n: c if isinstance(c, str) else f"{len(c)} bytes" for n, c in example.files.items()}
    words = [*map(repr, example.argv), str(files), str(example.env), str(example.tags)]
    return " ".join([*words, example.situation])[:600]


def _again(file: Path) -> int:
    example, one, _ = pickle.loads(file.read_bytes())
    folder = Path(tempfile.mkdtemp(prefix="fuzz-cli-"))
    place = Place(folder)
    print(f"was: {one}\n{_shown(example)}")
    found, done = findings(example, place)
    print(done.out, done.err, f"exit code {done.code}, {done.seconds:.1f} s", *found, sep="\n")
    if not found:
        shutil.rmtree(folder)
    return bool(found)


if __name__ == "__main__":
    main()
