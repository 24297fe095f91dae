"""``pack``, ``unpack``, ``inspect`` and ``verify``: packed files without a search."""

import csv
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlflow_compress.cli.command import command
from mlflow_compress.cli.output import FORCE, OUTPUT, check_output, echo, print_table, printable
from mlflow_compress.errors import PackedFormatError

if TYPE_CHECKING:
    import onnx

    from mlflow_compress.packed import PackedInfo

__all__ = ["inspect", "pack", "unpack", "verify"]

_WIDEST, _ROOM = 16, 1 << 20
"""Weights may decode to so many times the source's bytes, and so many more: protobuf writes small
numbers of eight bytes in one."""

_FILE = click.Path(dir_okay=False, path_type=Path)
_CAP = click.option(
    "--max-bytes",
    type=click.IntRange(1, 2**62),
    help="Most bytes that the weights may decode to [256 MiB and 256 times the file].",
)


@contextmanager
def _named(source: Path) -> Iterator[None]:
    """Put the file's name where an error says ``file``."""
    try:
        yield
    except PackedFormatError as error:
        where, _, what = str(error).partition(": ")
        if where != "file":
            raise
        raise PackedFormatError(f"{source}: {what}") from error


@command()
@click.argument("source", metavar="IN.onnx", type=_FILE)
@OUTPUT
@click.option(
    "--profile",
    type=click.Choice(["compact", "portable"]),
    default="compact",
    show_default=True,
    help="compact is smallest, read by mlflow_compress.packed; portable runs in any onnxruntime.",
)
@FORCE
def pack(source: Path, output: Path, profile: Any, force: bool) -> None:
    """Pack IN.onnx losslessly into one valid, smaller ONNX file."""
    from mlflow_compress import packed

    check_output(output, source, force)
    with _named(source):
        before = packed.pack_file(source, output, profile, prepare=_raised)
    _check_back(output, before)
    after = _size(output)
    echo(f"{output}: {after:,} bytes, {_times_smaller(before, after, profile)}")


def _check_back(output: Path, source_bytes: int) -> None:
    """Read what was written to its end; what cannot be read is not left behind.

    Raises:
        PackedFormatError: it is not what was packed.
    """
    from mlflow_compress import packed

    try:
        packed.verify(output, max_bytes=_WIDEST * source_bytes + _ROOM)
    except PackedFormatError as error:
        output.unlink()
        raise PackedFormatError(
            f"{output}: what was written cannot be read back, and was removed: {error} (please "
            "report it; the other profile may do)"
        ) from error


def _raised(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Raise the opset to what the portable profile needs, and say so."""
    from mlflow_compress.packed.portable.write import MIN_OPSET
    from mlflow_compress.techniques.graph.opset import raise_opset
    from mlflow_compress.techniques.graph.walk import opset

    made = raise_opset(model, MIN_OPSET, strict=True)
    if made is not model:
        echo(
            f"opset raised from {opset(model)} to {MIN_OPSET}: the outputs are the same on "
            "invented inputs",
            err=True,
        )
    return made


def _times_smaller(before: int, after: int, profile: str) -> str:
    """What packing gained, or that it gained nothing and what would."""
    if before / after >= 1.01:
        return f"{before / after:.2f} times smaller"
    advice = "use compact, or quantize first" if profile == "portable" else "quantize first"
    return f"no smaller than the model's {before:,} ({profile} gains nothing here: {advice})"


@command()
@click.argument("source", metavar="IN.onnx", type=_FILE)
@OUTPUT
@FORCE
@_CAP
def unpack(source: Path, output: Path, force: bool, max_bytes: int | None) -> None:
    """Rebuild the model that was packed into IN.onnx, bit for bit."""
    from mlflow_compress import packed

    check_output(output, source, force)
    with _named(source):
        packed.unpack_file(source, output, max_bytes=max_bytes)
    echo(f"{output}: {_size(output):,} bytes")


def _size(model: Path) -> int:
    """What a model takes, with the file beside it if this holds a part of it."""
    import onnx

    size, beside = model.stat().st_size, model.with_name(f"{model.name}.data")
    if not beside.exists():
        return size
    tensors = onnx.load(model, load_external_data=False).graph.initializer
    names = {entry.value for tensor in tensors for entry in tensor.external_data}
    return size + (beside.stat().st_size if beside.name in names else 0)


@command()
@click.argument("source", metavar="IN.onnx", type=_FILE)
@_CAP
def verify(source: Path, max_bytes: int | None) -> None:
    """Decode IN.onnx and compare every checksum; exits with 1 if it is damaged."""
    from mlflow_compress import packed

    with _named(source):
        packed.verify(source, max_bytes=max_bytes)
    echo(f"{source}: sound")


@command()
@click.argument("source", metavar="IN.onnx", type=_FILE)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, one line per tensor.")
@_CAP
def inspect(source: Path, as_json: bool, as_csv: bool, max_bytes: int | None) -> None:
    """Show what IN.onnx spends on each tensor.

    Entropy, bits and redundancy are bits per weight; redundancy is what is spent above the
    entropy, the KL divergence of the data from the code.
    """
    from mlflow_compress import packed

    with _named(source):
        info = packed.inspect(source, max_bytes=max_bytes)
    if as_json:
        echo(json.dumps({**asdict(info), "tensors": _rows(info)}, indent=2))
    elif as_csv:
        rows = _rows(info)
        fields = list(rows[0]) if rows else []
        writer = csv.DictWriter(sys.stdout, fields, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({**row, "shape": "x".join(map(str, row["shape"]))})
    else:
        _print_table(info)


def _rows(info: "PackedInfo") -> list[dict[str, Any]]:
    """Plain data for every tensor, rate and redundancy included."""
    return [
        {**asdict(tensor), "rate": tensor.rate, "redundancy": tensor.redundancy}
        for tensor in info.tensors
    ]


def _print_table(info: "PackedInfo") -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("tensor", "shape", "type", "encoding"):
        table.add_column(name, overflow="fold")
    for name in ("before", "after", "rate", "entropy", "bits", "redundancy"):
        table.add_column(name, justify="right", no_wrap=True)
    for tensor in info.tensors:
        table.add_row(
            printable(tensor.name),
            "x".join(map(str, tensor.shape)) or "scalar",
            tensor.dtype,
            tensor.encoding,
            f"{tensor.bytes_before:,}",
            f"{tensor.bytes_after:,}",
            f"{tensor.rate:.2f}",
            f"{tensor.entropy:.3f}",
            f"{tensor.bits_spent:.3f}",
            f"{tensor.redundancy:.3f}",
        )
    print_table(table)
    echo(
        f"{info.profile}, format {info.format_version}: {info.file_bytes:,} bytes, "
        f"{info.overhead_bytes:,} of them neither weights nor codebooks"
    )
