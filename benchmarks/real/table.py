"""Ours beside the peers': which is smaller, which is as good, and a table of it."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

PEERS = ("onnxruntime", "nncf")
_WIDE = 100
_LEGEND = (
    "times smaller than the source (after zstd -19), metric; + ours is smaller and as good,",
    "s smaller only, g as good only, - neither",
)


def compare(row: dict[str, Any]) -> None:
    """Note for each peer whether ours is smaller, and as good."""
    mine = row.get("ours", {})
    if "scores" not in mine:
        return
    for tool in PEERS:
        theirs = row.get(tool, {})
        if "scores" not in theirs:
            continue
        enough = min(_first(theirs["scores"]), _first(row["source"]))
        theirs["smaller"] = mine["bytes"] < min(theirs["bytes"], theirs["zstd"])
        theirs["as good"] = _first(mine["scores"]) >= enough


def _first(scores: Mapping[str, float]) -> float:
    return next(iter(scores.values()))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the results, at most 100 columns wide, and what each of ours was held to."""
    head = f"{'model':<12}{'metric':<14}{'source':>7} " + "".join(
        f"{tool:>21}" for tool in ("ours", *PEERS)
    )
    lines = [head, "-" * len(head), *map(line, rows), "", *_LEGEND]
    for row in rows:
        mine = row.get("ours", {})
        notes = [f"{name}: {kind}" for name, kind in mine.get("kinds", {}).items()]
        notes += [f"gate: {gate}" for gate in mine.get("gates", ())]
        notes += [f"arguments: {mine['arguments']}"] if mine.get("arguments") else []
        if notes:
            lines += ["", f"{row['model']} ({row['kind']})"]
        for note in notes:
            lines += textwrap.wrap(note, _WIDE, initial_indent="  ", subsequent_indent="    ")
    return "\n".join(lines)


def line(row: Mapping[str, Any]) -> str:
    """Return one model's line of the table."""
    metric, own = next(iter(row["source"].items()))
    cells = "".join(f"{_cell(row, tool):>21}" for tool in ("ours", *PEERS))
    return f"{row['model']:<12}{metric:<14}{_number(own):>7} {cells}".rstrip()


def _cell(row: Mapping[str, Any], tool: str) -> str:
    made = row.get(tool)
    if made is None:
        return ""
    if "scores" not in made:
        return made["error"].split(":")[0][:20]
    mark = ""
    if "smaller" in made:
        verdict = made["smaller"], made["as good"]
        mark = {(True, True): "+", (True, False): "s", (False, True): "g"}.get(verdict, "-")
    rate = f"{row['bytes'] / made['bytes']:.1f}"
    if tool != "ours":
        rate += f" ({row['bytes'] / made['zstd']:.1f})"
    return f"{rate} {_number(_first(made['scores']))} {mark:1}"


def _number(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.4f}"
