"""What the registry's pages say of targets, in descriptions that belong to people.

Only what stands between two markers is this project's. It is written from the registry's state, so
that whoever looks next mends what a job that died left out.
"""

import re
import time
from collections.abc import Callable
from typing import Any

from mlflow_compress.records import Variant, format_score
from mlflow_compress.registry.variants import RegistryState
from mlflow_compress.targets import format_size
from mlflow_compress.tracking.names import ALIAS_TAG, GAP, QUARANTINE

__all__ = ["BEGIN", "END", "device_table", "refresh", "with_section"]

BEGIN = "<!-- compress:begin -->"
END = "<!-- compress:end -->"

# MLflow's database columns end here.
_LIMIT = 5000
_SECTION = re.compile(f"{BEGIN}((?:(?!{BEGIN}).)*?){END}", re.DOTALL)
_LINE = re.compile(r"- \*\*([\w-]+)\*\*: (.*)")


def with_section(text: str, section: str) -> str:
    """Return a description with ``section`` between the markers, all else as it was.

    Where a marker is missing the section goes to the end. A description that would be longer than
    MLflow takes is returned as it was.
    """
    found = _SECTION.search(text)
    if found:
        before, after = text[: found.start()], text[found.end() :]
    else:
        before, after = f"{text.rstrip()}\n\n" if text.strip() else "", ""
    made = f"{before}{BEGIN}\n{section.strip()}\n{END}{after}"
    return made if len(made) <= _LIMIT else text


def _section(text: str) -> str:
    found = _SECTION.search(text)
    return found[1].strip() if found else ""


def device_table(state: RegistryState) -> str:
    """Return each target with the version that it is on, as a Markdown table."""
    promoted = {tag.removeprefix(ALIAS_TAG) for tag in state.tags if tag.startswith(ALIAS_TAG)}
    gaps = {
        tag.removeprefix(GAP): (version, text)
        for version, tags in sorted(state.version_tags.items())
        for tag, text in tags.items()
        if tag.startswith(GAP)
    }
    lines = [
        "| device | version | rate | accuracy | size | variant |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for target in sorted(promoted | gaps.keys()):
        version = state.aliases.get(target)
        if version is None and target in gaps:
            nearest, gap = gaps[target]
            cells = ["-", "", "", "", f"none is good enough; version {nearest}: {gap}"]
        else:
            cells = ["-" if version is None else str(version), *_cells(state.variant(version))]
        lines.append(f"| {' | '.join(_plain(cell) for cell in (target, *cells))} |")
    return "\n".join(lines)


def _cells(variant: Variant | None) -> list[str]:
    if variant is None:
        return ["", "", "", ""]
    report = variant.report
    quality = ""
    if report.accuracy is not None:
        quality = format_score(report.accuracy.value, report.accuracy.unit)
    elif report.fidelity is not None:
        quality = report.fidelity.text
    return [f"{report.rate:.1f}x", quality, format_size(report.size_bytes), variant.recipe.label]


def _plain(text: str) -> str:
    """Return a text as it may stand in a table or a line: no cell, line or marker ends in it."""
    return " ".join(text.replace("|", "/").replace("<", "‹").replace(">", "›").split())


def refresh(
    client: Any,
    state: RegistryState,
    target: str,
    outcome: str,
    reason: str,
    do: Callable[[Callable[[], Any]], Any],
) -> None:
    """Bring the descriptions up to date after a decision; write only what differs.

    Args:
        client: an ``MlflowClient``.
        state: the registered model, read after the alias was moved.
        target: the target that was decided for.
        outcome: what was done, for the version that the alias is on.
        reason: why.
        do: calls with patience.
    """
    name = state.name
    if not state.exists:
        return
    wanted = with_section(state.description, device_table(state))
    if wanted != state.description:
        do(lambda: client.update_registered_model(name, wanted))
    for version, known in state.descriptions.items():
        text = with_section(known, _notes(state, version, known, target, outcome, reason))
        if text != known and (_section(text) or _section(known)):
            do(lambda v=version, t=text: client.update_model_version(name, str(v), t))  # type: ignore[misc]


def _notes(
    state: RegistryState, version: int, known: str, target: str, outcome: str, reason: str
) -> str:
    """Return what a version's description says of targets: one line each."""
    found = (_LINE.fullmatch(line) for line in _section(known).splitlines())
    notes = {match[1]: match[2] for match in found if match}
    if state.aliases.get(target) == version:
        old = notes.get(target, "")
        if outcome != "kept" or not old or old.startswith("left"):
            when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
            notes[target] = f"{outcome} on {when}: {_plain(reason)}"
    for other, note in notes.items():
        if state.aliases.get(other) != version and not note.startswith("left"):
            notes[other] = _left(state, version, other)
    return "\n".join(f"- **{other}**: {note}" for other, note in sorted(notes.items()))


def _left(state: RegistryState, version: int, target: str) -> str:
    now = state.aliases.get(target)
    goes = f"left for version {now}" if now is not None else "left, the alias is gone"
    why = state.version_tags.get(version, {}).get(QUARANTINE + target)
    return f"{goes}, quarantined {_plain(why)}" if why else goes
