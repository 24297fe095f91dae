"""``targets list | show | check``: the profiles, and whether a device bears one out."""

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import click

from mlflow_compress.cli.command import Group
from mlflow_compress.cli.output import echo, print_json, print_table, table
from mlflow_compress.errors import ConfigError

if TYPE_CHECKING:
    from mlflow_compress.targets import DeviceFacts, Finding, Target

__all__ = ["targets"]

_AS_JSON: Any = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document, for scripts."
)
_PROFILE: Any = click.argument("profile", metavar="NAME|FILE")


@click.group(cls=Group)
def targets() -> None:
    """List and show target profiles, and check one against its device."""


@targets.command("list")
@_AS_JSON
def list_targets(as_json: bool) -> None:
    """List the profiles that are known by name: shipped ones and those of installed packages."""
    from mlflow_compress.targets import shipped_names, target_data

    found = [target_data(name) for name in shipped_names()]
    if as_json:
        print_json({"targets": found})
        return
    shown = table("target", "objective", "size", "p50", "p95", "memory", "device")
    for data in found:
        limits = data.get("limits", {})
        columns = [str(limits.get(key, "-")) for key in _LIMITS]
        objective = str(data.get("objective", "size"))
        shown.add_row(data["name"], objective, *columns, data.get("description", ""))
    print_table(shown)


_LIMITS = ("size", "latency_p50", "latency_p95", "memory")


@targets.command()
@_PROFILE
@_AS_JSON
def show(profile: str, as_json: bool) -> None:
    """Print a profile with what it extends filled in: a start for one of your own.

    NAME is a shipped profile's, FILE a profile's YAML file.
    """
    import yaml

    from mlflow_compress.targets import target_data

    data = target_data(profile)
    if as_json:
        print_json(data)
    else:
        echo(yaml.safe_dump(data, sort_keys=False, allow_unicode=True).rstrip())


@targets.command()
@_PROFILE
@click.option(
    "--on",
    "place",
    metavar="PLACE",
    help="The device: ssh://user@host, cmd:<template>, or local when this machine is it "
    "[the profile's measured_on].",
)
@_AS_JSON
def check(profile: str, place: str | None, as_json: bool) -> None:
    """Ask a device whether it is what a profile says: cores, RAM, providers, opset.

    Exits with 2 when the device contradicts the profile, and with 5 when it is out of reach or
    has no Python with onnxruntime. Where a profile that is measured locally describes a device
    (cores, memory, another runtime), this machine stands for it, so that only what measuring
    needs is checked; --on local says that this machine is the device.
    """
    from mlflow_compress.targets import compare, device_for, load_target, read_facts

    target = load_target(profile)
    if place is not None:
        target = replace(target, measured_on=place)
    device = device_for(target.measured_on)
    emulated = place is None and target.emulated
    facts = read_facts(device)
    findings = [*compare(target, facts, emulated=emulated), *_opset(target, emulated)]
    if as_json:
        print_json(
            {
                "target": target.name,
                "measured_on": target.measured_on,
                "emulated": emulated,
                "device": asdict(facts),
                "findings": [asdict(finding) for finding in findings],
            }
        )
    else:
        _show_check(target, facts, findings, emulated)
    problem = next((one.problem for one in findings if one.problem), "")
    if problem:
        raise ConfigError(f"target {target.name!r} on {target.measured_on}: {problem}")


def _opset(target: "Target", emulated: bool) -> list["Finding"]:
    """Try the profile's opset on the device."""
    from mlflow_compress.targets import Finding, device_for, loads_opset

    opset = target.execution.opset
    if opset is None or emulated:
        wanted = "-" if opset is None else str(opset)
        return [Finding("execution.opset", wanted, "-", "not checked")]
    refusal = loads_opset(device_for(target.measured_on), opset)
    if refusal:
        problem = f"execution.opset is {opset}, its onnxruntime says: {refusal}"
        return [Finding("execution.opset", str(opset), "refused", "contradicted", problem)]
    return [Finding("execution.opset", str(opset), "runs", "confirmed")]


def _show_check(
    target: "Target", facts: "DeviceFacts", findings: list["Finding"], emulated: bool
) -> None:
    what = f"{facts.system} on {facts.machine}, Python {facts.python}"
    echo(f"{target.measured_on}: {what}, onnxruntime {facts.onnxruntime}")
    shown = table("field", "profile", "device", "verdict")
    for one in findings:
        shown.add_row(one.field, one.wanted, one.found, one.verdict)
    print_table(shown)
    if emulated:
        echo(
            f"this machine stands for {target.name}: its numbers are emulated; --on names the "
            "device, or says with local that this machine is it"
        )
