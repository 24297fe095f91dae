"""Draws what a person, a script or a broken disk may do with the commands."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from hypothesis import strategies as st

from mlflow_compress import techniques
from mlflow_compress.cli.main import cli
from tests.fuzz_cli.odd import ODD, odd_bytes, odd_model, odd_rows, odd_tree, odd_yaml
from tests.fuzz_cli.project import CONFIGS, MODELS, ROWS

__all__ = ["Example", "commands", "examples"]


@dataclass(frozen=True)
class Example:
    """One call of the command line, in a project that was changed before it.

    Attributes:
        argv: the arguments.
        files: what stands in files in place of what the project has: bytes, or ``folder``,
            ``missing``, ``dangling`` (a link to nothing), ``fifo``.
        env: variables of the environment; None takes one away.
        tags: values of tags of registered versions, by key.
        situation: what is wrong with the machine; empty when nothing is.
    """

    argv: tuple[str, ...]
    files: Mapping[str, bytes | str] = field(default_factory=dict)
    env: Mapping[str, str | None] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    situation: str = ""


def commands() -> dict[tuple[str, ...], click.Command]:
    """Return every command that does something, by its words."""
    return dict(_leaves(cli, ()))


def _leaves(group: click.Group, words: tuple[str, ...]) -> Iterator[Any]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from _leaves(command, (*words, name))
        else:
            yield (*words, name), command


_OUTPUTS = ("out.onnx", "out.onnx", "out.html", "tiny.onnx", "nowhere/out.onnx", ".", "/dev/null",
            "/dev/full", "out\udcff.onnx", "o" * 300, "")  # fmt: skip
_VALUES: dict[str, tuple[str, ...]] = {
    "source": (*MODELS, *MODELS, "compress.yaml", "rows.npz", "nothing.onnx", "models:/toy/1"),
    "config": ("compress.yaml", "registered.yaml", "registered.yaml", "techniques.yaml"),
    "configs": ("registered.yaml",),
    "space": ("space.yaml", "paths.yaml"),
    "model": ("toy-edge", "toy-edge", "toy-edge", "registered.yaml", "toy", "nothing"),
    "config_or_model": ("registered.yaml", "toy-edge", "toy-edge", "file-edge"),
    "profile_name": ("device.yaml", "device.yaml", "raspberry-pi-4", "browser"),
    "run": ("RUN", "RUN", "0" * 32),
    "version": ("1", "2", "3"),
    "target": ("device", "kiosk", "device.yaml", "desk", "browser"),
    "output": _OUTPUTS,
    "calibration": (*ROWS, *ROWS, "rows.csv", "rows.py:rows"),
    "evaluation": (*ROWS, *ROWS, "rows.csv", "rows.py:rows"),
    "metric": ("accuracy", "accuracy", "f1", "rmse", "kl", "metric.py:share"),
    "tracking_uri": (*["STORE"] * 12, "sqlite:///nowhere/x.db", "http://127.0.0.1:9"),
    "overrides": (
        "search.trials=1",
        "search.seed=5",
        "data.metric=f1",
        "targets.0.objective=size",
        "search.strategy=gp",
        "search.strategy=tpe",
        "search.sensitivity=seed",
    ),
    "limits": ("agreement=0.9", "y.agreement=0.9", "error=0.1", "classes.kl=0.1"),
    "kinds": ("y=classes", "y=values", "y=embedding", "classes=classes", "index=ignore"),
    "inputs": ("x=axis:0", "x=value:0", "image=axis:0"),
    "on": ("local", "cmd:false {}", "ssh://127.0.0.1:9"),
    "why": ("it is bad", "", "ä" * 600),
    "queue": ("queue", "artifacts"),
    "url": ("http://127.0.0.1:9/webhook",),
    "secret_env": ("SECRET", "NOTHING"),
    "secret_file": ("metric.py", "nothing"),
    "effort": ("1",),
    "settle": ("0",),
    "grace": ("1",),
    "wait": ("0", "1"),
    "port": ("0",),
    "jobs": ("1", "2"),
    "stream": ("1", "10"),
    "max_bytes": ("1000000", "1", "10"),
    "to": ("1", "2"),
    "order": ("kernel,resolution", "kernel"),
    "supernet": ("models:/toy/1",),
}
"""What is meant for a parameter, by its name; drawn more often than what is odd."""

_SAME = {"status": "model", "history": "model", "rollback": "model", "quarantine": "model",
         "unquarantine": "model", "approve": "model", "reject": "model",
         "promote": "config_or_model", "show": "profile_name", "check": "profile_name",
         "train": "space", "specialize": "space", "paths": "space"}  # fmt: skip
"""Commands whose first argument is called ``config`` or the like, and what it may be."""

_ALWAYS = {"effort", "settle", "grace", "port", "tracking_uri", "secret_env"}
"""Options that keep an example short or make it reach the store."""

_WEIGHTS = {("compress",): 9, ("pack",): 14, ("unpack",): 14, ("inspect",): 14, ("verify",): 14,
            ("run",): 5, ("retrain",): 3, ("nas", "train"): 1, ("nas", "paths"): 1,
            ("nas", "specialize"): 1, ("webhook", "serve"): 1}  # fmt: skip
"""How often a command is drawn; 4 is usual."""

_ENV: dict[str, tuple[str | None, ...]] = {
    "MLFLOW_TRACKING_URI": ("STORE", "", "nonsense", "http://127.0.0.1:9", "databricks", "file:x",
                            "sqlite:////proc/x.db", "postgresql://127.0.0.1:9/x", "http://[::1"),
    "MLFLOW_REGISTRY_URI": ("", "http://127.0.0.1:9", "uc"),
    "MLFLOW_EXPERIMENT_NAME": ("", "x", "a/b"),
    "MLFLOW_RUN_ID": ("0" * 32,),
    "MLFLOW_HTTP_REQUEST_TIMEOUT": ("x", "-1", "0"),
    "MLFLOW_COMPRESS_BACKEND": ("numpy", "native", "x", ""),
    "MLFLOW_COMPRESS_PROFILER": ("x", "", "local"),
    "COLUMNS": ("1", "0", "-5", "x", "100000"),
    "LINES": ("x",),
    "TERM": ("dumb", "", "xterm-256color"),
    "NO_COLOR": ("1",),
    "FORCE_COLOR": ("1",),
    "TMPDIR": ("/nowhere", "", "tiny.onnx"),
    "HOME": (None, "/nowhere", "/dev/null"),
    "PATH": (None, ""),
    "TZ": ("nowhere/x",),
    "OMP_NUM_THREADS": ("x", "0", "-1"),
    "XDG_CACHE_HOME": ("/dev/null", "/proc", ""),
    "PYTHONPATH": ("/nowhere",),
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": ("x",),
    "MLFLOW_LOGGING_LEVEL": ("x", "DEBUG"),
}  # fmt: skip
_SITUATIONS = ("full disk", "no files left", "folder gone", "ascii", "closed output",
               "Ctrl-C after", "read-only store", "locked store")  # fmt: skip
_TAGS = ("rate", "accuracy", "report", "digest", "recipe", "source", "profile", "key",
         "limits.device", "quarantined", "evidence", "target.device")  # fmt: skip


@st.composite
def examples(draw: st.DrawFn, artifacts: tuple[str, ...] = (), project: Path = Path()) -> Example:
    """Draw an example.

    Args:
        draw: of hypothesis.
        artifacts: the files of the registry that may be damaged, below the project.
        project: where the project's files are read.
    """
    every = commands()
    weighted = [words for words in every for _ in range(_WEIGHTS.get(words, 4))]
    words = draw(st.sampled_from(weighted))
    rng = draw(st.randoms(use_true_random=True, note_method_calls=False))
    argv = (*words, *_arguments(words, every[words], rng))
    files: dict[str, bytes | str] = {}
    for _ in range(rng.choice([0, 1, 1, 1, 2])):
        files |= _changed(argv, artifacts, project, rng)
    env: dict[str, str | None] = {}
    if rng.random() < 0.25:
        name = rng.choice(list(_ENV))
        env[name] = rng.choice(_ENV[name])
    tags: dict[str, str] = {}
    if words[0] in ("status", "history", "promote", "approve", "rollback", "report", "run") and (
        rng.random() < 0.4
    ):
        told = _odd_text(rng).encode("utf-8", "replace").decode()
        tags[f"compress.{rng.choice(_TAGS)}"] = told
    situation = rng.choice(_SITUATIONS) if rng.random() < 0.12 else ""
    if situation == "Ctrl-C after":
        situation = f"Ctrl-C after {rng.uniform(0, 2):.2f}"
    return Example(argv, files, env, tags, situation)


def _arguments(words: tuple[str, ...], command: click.Command, rng: random.Random) -> list[str]:
    """Return arguments and options: mostly those that are asked for, and mostly meant well."""
    found: list[str] = []
    for one in command.params:
        name = one.name or ""
        if isinstance(one, click.Argument):
            known = _SAME.get(words[-1], name) if not found else name
            count = 1 if rng.random() < 0.97 else rng.choice([0, 2])
            found += [_value(known, one, rng) for _ in range(count)]
            continue
        assert isinstance(one, click.Option)
        wanted = 0.97 if one.required or name in _ALWAYS else 0.2
        if name == "help" or rng.random() > wanted:
            continue
        if one.is_flag:
            found.append(rng.choice([*one.opts, *one.secondary_opts]))
            continue
        for _ in range(rng.choice([1, 1, 1, 2]) if one.multiple or rng.random() < 0.02 else 1):
            found += [rng.choice(one.opts), _value(name, one, rng)]
    if rng.random() < 0.03:
        found.insert(rng.randrange(len(found) + 1), _odd_text(rng))
    return [word.replace("\x00", "") for word in found]


def _value(name: str, param: click.Parameter, rng: random.Random) -> str:
    if rng.random() < 0.12:
        return _odd_text(rng)
    if name in _VALUES:
        return rng.choice(_VALUES[name])
    if isinstance(param.type, click.Choice):
        return str(rng.choice(list(param.type.choices)))
    return rng.choice(["0", "1", "0.5", "0.01", "10", "y", "x"])


def _odd_text(rng: random.Random) -> str:
    value = rng.choice(ODD)
    text = value if isinstance(value, str) else str(value)
    return (
        text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
        if ("\ud800" not in text)
        else "\udcff"
    )


def _changed(
    argv: tuple[str, ...], artifacts: tuple[str, ...], project: Path, rng: random.Random
) -> dict[str, bytes | str]:
    """Return a change of a file, most likely of one that the call reads."""
    known = [*MODELS, *ROWS, "rows.csv", *CONFIGS]
    named = [name for name in known if name in argv]
    used = [*named, *named, *named]
    if any(name in CONFIGS for name in named):
        used += [*ROWS[:1], "tiny.onnx", *rng.sample(artifacts, min(3, len(artifacts)))]
    elif "toy-edge" in argv or "RUN" in argv:
        used += rng.sample(artifacts, min(5, len(artifacts)))
    name = rng.choice(used or known)
    if rng.random() < 0.08:
        # of a configuration, a pipe is waited for: somebody may be about to write it
        odd = ["folder", "missing", "dangling", *([] if name in CONFIGS else ["fifo"])]
        return {name: rng.choice(odd)}
    return {name: _damaged(name, (project / name).read_bytes(), rng)}


def _damaged(name: str, data: bytes, rng: random.Random) -> bytes:
    kind = Path(name).suffix
    if rng.random() < 0.2 or kind in (".csv", ".txt", ".bin"):
        return odd_bytes(data, rng)
    if kind == ".onnx":
        return odd_model(data, rng)
    if kind == ".npz":
        return odd_rows(data, rng)
    if name == "techniques.yaml" and rng.random() < 0.7:
        return _other_recipes(data, rng)
    if kind == ".yaml" or Path(name).name == "MLmodel":
        return odd_yaml(data, rng)
    return odd_bytes(data, rng)


def _other_recipes(data: bytes, rng: random.Random) -> bytes:
    """Put steps of any technique into a configuration, with settings that may be odd."""
    import dataclasses

    import yaml

    config = yaml.safe_load(data)
    recipe = []
    for _ in range(rng.choice([1, 1, 2, 3])):
        name = rng.choice(techniques.names())
        settings: dict[str, Any] = {}
        for one in dataclasses.fields(techniques.get(name).settings):
            if rng.random() < 0.15:
                near: list[Any] = [
                    0,
                    1,
                    2,
                    0.1,
                    0.5,
                    4,
                    8,
                    True,
                    False,
                    "rtn",
                    "global",
                    "2:4",
                    ["w1"],
                ]
                settings[one.name] = rng.choice(near if rng.random() < 0.7 else ODD)
        recipe.append({name: settings})
    config["recipes"] = [recipe]
    if rng.random() < 0.2:
        config = odd_tree(config, rng)
    return yaml.safe_dump(config, allow_unicode=True).encode("utf-8", "surrogatepass")
