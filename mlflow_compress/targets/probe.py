"""The measuring script that is sent to a device: one JSON object on stdout.

It stands alone: Python 3.8, numpy and onnxruntime are all that the device needs. A model in the
compact profile is opened with ``mlflow_compress.packed``, if that is installed there.

    python probe.py time variant.onnx source.onnx inputs.npz '{"threads": 1, "rounds": 15}'
    python probe.py memory variant.onnx - inputs.npz '{"threads": 1}'
    python probe.py many 0.onnx - inputs.npz '{"threads": 1, "rounds": 15, "models": 40}'
    python probe.py facts
"""

from __future__ import annotations

import json
import os
import platform
import resource
import sys
import time
from pathlib import Path
from typing import Any

# How long one model's calls of one round take at the most, in seconds.
ROUND_SECONDS = 0.05
REPEATS = 30


def facts() -> dict[str, Any]:
    """Return what can be known of this device."""
    import importlib.util

    import onnxruntime

    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        memory = None
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "cores": os.cpu_count(),
        "memory_bytes": memory,
        "providers": onnxruntime.get_available_providers(),
        "packed": importlib.util.find_spec("mlflow_compress") is not None,
    }


def confine(settings: dict[str, Any]) -> None:
    """Keep this process on as many processors as it may have threads, and within a memory."""
    if settings.get("pin") and hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, allowed[: settings["threads"]])
    if settings.get("memory_limit"):
        limit = settings["memory_limit"]
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def open_model(path: str, settings: dict[str, Any]) -> Any:
    """Open a model with onnxruntime, or with this project's runtime if it is packed compactly."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings["threads"]
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = settings.get("providers") or ["CPUExecutionProvider"]
    if settings.get("compact") and path == "variant.onnx":
        from mlflow_compress import packed

        return packed.load(path, providers=providers, threads=settings["threads"])
    return onnxruntime.InferenceSession(path, options, providers=providers)


def time_calls(session: Any, feed: dict[str, Any], count: int) -> list[float]:
    """Return the seconds of each of ``count`` calls."""
    spent = []
    for _ in range(count):
        begin = time.perf_counter()
        session.run(None, feed)
        spent.append(time.perf_counter() - begin)
    return spent


def measure_time(
    variant: str, source: str, feed: dict[str, Any], settings: dict[str, Any]
) -> dict[str, Any]:
    """Time both models in turn, in an order that changes from round to round."""
    import numpy

    sessions = [open_model(variant, settings), open_model(source, settings)]
    counts = []
    for session in sessions:
        once = min(time_calls(session, feed, 3))
        counts.append(max(3, min(REPEATS, int(ROUND_SECONDS / max(once, 1e-9)))))
    order = numpy.random.default_rng(settings.get("seed", 0))
    fastest = []
    spent: tuple[list[float], list[float]] = ([], [])
    for _ in range(settings.get("rounds", 15)):
        best = [0.0, 0.0]
        for which in order.permutation(2):
            time_calls(sessions[which], feed, max(1, counts[which] // 5))
            calls = time_calls(sessions[which], feed, counts[which])
            spent[which].extend(calls)
            best[which] = min(calls)
        fastest.append(best)
    return {"fastest": fastest, "variant": spent[0], "source": spent[1]}


def measure_many(settings: dict[str, Any]) -> dict[str, Any]:
    """Time models ``0.onnx``, ``1.onnx`` … in turn, in an order that changes, on noise.

    The answer has each model's fastest and its median call of each round, in seconds.
    """
    import numpy

    order = numpy.random.default_rng(settings.get("seed", 0))
    sessions, feeds, counts = [], [], []
    for index in range(settings["models"]):
        sessions.append(open_model(f"{index}.onnx", settings))
        feed = {}
        for entry in sessions[-1].get_inputs():
            shape = [axis if isinstance(axis, int) else 1 for axis in entry.shape]
            feed[entry.name] = order.standard_normal(shape).astype(numpy.float32)
        feeds.append(feed)
        once = min(time_calls(sessions[-1], feed, 3))
        counts.append(max(3, min(REPEATS, int(ROUND_SECONDS / max(once, 1e-9)))))
    fastest, typical = [], []
    for _ in range(settings.get("rounds", 15)):
        best, middle = [0.0] * len(sessions), [0.0] * len(sessions)
        for which in order.permutation(len(sessions)):
            time_calls(sessions[which], feeds[which], max(1, counts[which] // 5))
            spent = sorted(time_calls(sessions[which], feeds[which], counts[which]))
            best[which], middle[which] = spent[0], spent[len(spent) // 2]
        fastest.append(best)
        typical.append(middle)
    return {"fastest": fastest, "typical": typical}


def peak_memory() -> int:
    """Return the peak resident bytes of this process."""
    # VmHWM begins anew when a process is started; ru_maxrss is inherited from who started it.
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def measure_memory(variant: str, feed: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Return the peak memory of a process that opens the variant and runs it."""
    session = open_model(variant, settings)
    for _ in range(5):
        session.run(None, feed)
    return {"peak": peak_memory()}


def main(arguments: list[str]) -> None:
    """Do what the command line says and print one JSON object."""
    # numpy's own threads only cost memory here; this comes before it is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    task = arguments[0]
    if task == "facts":
        sys.stdout.write(json.dumps(facts()))
        return
    import numpy

    settings = json.loads(arguments[4])
    confine(settings)
    with numpy.load(arguments[3], allow_pickle=False) as stored:
        feed = {name: stored[name] for name in stored.files}
    try:
        if task == "many":
            found = measure_many(settings)
        elif task == "time":
            found = measure_time(arguments[1], arguments[2], feed, settings)
        else:
            found = measure_memory(arguments[1], feed, settings)
    except Exception as error:  # noqa: BLE001 - onnxruntime's errors have no common base class
        found = {"error": type(error).__name__ + ": " + " ".join(str(error).split())}
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
