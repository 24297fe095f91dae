"""What a device says of itself, and where that contradicts a profile."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion

from mlflow_compress.errors import ConfigError
from mlflow_compress.targets.profile import LOCAL_PROVIDERS, Target
from mlflow_compress.targets.units import format_size

__all__ = ["DeviceFacts", "Finding", "compare", "to_facts", "verify"]

# Firmware and graphics keep a part of the RAM that is sold.
_LEAST_MEMORY = 0.75


@dataclass(frozen=True)
class DeviceFacts:
    """What a device says of itself.

    Attributes:
        machine: processor architecture, such as ``aarch64``.
        system: operating system, such as ``Linux``.
        python: version of its Python.
        onnxruntime: version of its onnxruntime.
        cores: processor cores, None when unknown.
        memory_bytes: RAM, None when unknown.
        providers: execution providers of its onnxruntime, empty when unknown.
        packed: whether it can load the compact profile, None when unknown.
    """

    machine: str
    system: str
    python: str
    onnxruntime: str
    cores: int | None
    memory_bytes: int | None
    providers: tuple[str, ...] = ()
    packed: bool | None = None


def to_facts(answer: Mapping[str, Any]) -> DeviceFacts:
    """Build the facts from what the measuring script answered.

    Raises:
        ValueError: a field is missing or of another type; the message is one line.
    """
    for key in ("machine", "system", "python", "onnxruntime"):
        _expect(answer, key, str)
    for key in ("cores", "memory_bytes"):
        _expect(answer, key, (int, type(None)))
    _expect(answer, "packed", (bool, type(None)))
    providers = _expect(answer, "providers", list)
    if not all(isinstance(one, str) for one in providers):
        raise ValueError(f"'providers' is {str(providers)[:80]}")
    known = {item.name: answer[item.name] for item in fields(DeviceFacts)}
    return DeviceFacts(**{**known, "providers": tuple(providers)})


def _expect(answer: Mapping[str, Any], key: str, kind: type | tuple[type, ...]) -> Any:
    if key not in answer:
        raise ValueError(f"{key!r} is missing")
    if not isinstance(answer[key], kind):
        raise ValueError(f"{key!r} is {str(answer[key])[:80]!r}")
    return answer[key]


Verdict = Literal["confirmed", "contradicted", "not checked"]


@dataclass(frozen=True)
class Finding:
    """One field of a profile beside what the device says.

    Attributes:
        field: such as ``execution.cores``.
        wanted: the profile's value, for people.
        found: the device's, for people.
        verdict: ``not checked`` when the profile says nothing, the device does not tell, or this
            machine only stands for the device.
        problem: one sentence when contradicted.
    """

    field: str
    wanted: str
    found: str
    verdict: Verdict
    problem: str = ""


def compare(target: Target, facts: DeviceFacts, *, emulated: bool) -> tuple[Finding, ...]:
    """Compare every field that a device can confirm.

    Args:
        target: the profile.
        facts: what the device says.
        emulated: this machine stands for another: then only what measuring needs is compared.
    """
    wants = target.execution
    cores, memory = facts.cores, facts.memory_bytes
    found = [
        _finding(
            "execution.threads",
            wants.threads,
            cores,
            cores is not None and wants.threads > cores,
            f"is {wants.threads}, it has {cores} cores",
        ),
        _finding(
            "execution.cores",
            wants.cores,
            cores,
            None not in (wants.cores, cores) and wants.cores != cores,
            f"is {wants.cores}, it has {cores}",
            emulated,
        ),
        _finding(
            "execution.memory",
            None if wants.memory_bytes is None else format_size(wants.memory_bytes),
            None if memory is None else format_size(memory),
            memory is not None
            and wants.memory_bytes is not None
            and memory < _LEAST_MEMORY * wants.memory_bytes,
            f"is {wants.memory_bytes} bytes, it has {memory}",
            emulated,
        ),
    ]
    found += [_version(target, facts, emulated), _providers(target, facts, emulated)]
    needs_packed = "compact" in wants.profiles
    can = {True: "portable, compact", False: "portable", None: None}[facts.packed]
    found.append(
        _finding(
            "execution.profiles",
            ", ".join(wants.profiles),
            can,
            needs_packed and facts.packed is False,
            "has compact, which needs mlflow_compress there: install it, or set profiles: "
            "[portable]",
            emulated,
        )
    )
    return tuple(found)


def _version(target: Target, facts: DeviceFacts, emulated: bool) -> Finding:
    wanted = target.execution.runtime_version
    try:
        fits = wanted is None or SpecifierSet(wanted).contains(facts.onnxruntime, prereleases=True)
    except InvalidVersion:
        fits = False
    return _finding(
        "execution.runtime_version",
        wanted,
        facts.onnxruntime,
        not fits,
        f"is {wanted}, its onnxruntime is {facts.onnxruntime}",
        emulated,
    )


def _providers(target: Target, facts: DeviceFacts, emulated: bool) -> Finding:
    """Compare the providers with the device's, or with those that this machine measures with."""
    wanted = target.execution.providers
    here = target.place.is_local
    there = LOCAL_PROVIDERS if here else facts.providers
    missing = [one for one in wanted if one not in there]
    what = "what is measured here runs on" if here else f"its onnxruntime {facts.onnxruntime} has"
    advice = "; measured_on: 'cmd:env' measures with the profile's providers" if here else ""
    return _finding(
        "execution.providers",
        ", ".join(wanted),
        ", ".join(there) or None,
        bool(there and missing),
        f"has {', '.join(missing)}, {what} {', '.join(there)}{advice}",
        emulated,
    )


def _finding(
    field: str,
    wanted: object,
    found: object,
    contradicted: bool,
    problem: str,
    emulated: bool = False,
) -> Finding:
    shown, told = ("-" if value is None else str(value) for value in (wanted, found))
    if emulated or wanted is None or found is None:
        return Finding(field, shown, told, "not checked")
    if contradicted:
        return Finding(field, shown, told, "contradicted", f"{field} {problem}")
    return Finding(field, shown, told, "confirmed")


def verify(target: Target, facts: DeviceFacts) -> None:
    """Refuse a profile that the device it is measured on contradicts.

    This machine standing for another device is no contradiction, so that emulated targets pass
    unless they want more threads than there are cores.

    Raises:
        ConfigError: one line with the field, the profile's value and the device's.
    """
    for finding in compare(target, facts, emulated=target.emulated):
        if finding.verdict == "contradicted":
            raise ConfigError(f"target {target.name!r} on {target.measured_on}: {finding.problem}")
