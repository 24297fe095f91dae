"""What people, scripts and broken disks hand over in place of what was asked for."""

import io
import math
import random
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import yaml
from google.protobuf.message import Message
from onnx import ModelProto

__all__ = ["ODD", "odd_bytes", "odd_model", "odd_rows", "odd_tree", "odd_yaml"]

ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2, 0.5, 1.5, -0.0, 2**31, 2**63, 10**30, -(10**30), 1e-300, 1e308,
    math.nan, math.inf, -math.inf, "", " ", "x", "x" * 5000, "ä\u202e\u0007", "a\x00b", "a\nb",
    "\ud800", "a/b", "../..", "/dev/null", ".", "..", "~", "-", "--", "0", "1", "1e3", "10GB",
    "-5kB", "1 kB", "5ms", "0ms", "nan", "[bold]x[/red]", "%s%n", "{0.__class__}", "${HOME}", "*",
    "models:/toy@champion", "models:/toy/99", "models:/toy", "models:/", "runs:/x", "file:///",
    "http://127.0.0.1:9/", "s3://", "math:pi", "math:sqrt", "os:nothing", "nowhere:at_all", ":",
    "metric.py:broken", "metric.py:text", "metric.py:many", "metric.py:", "rows.py:rows",
    "rows.py:none", "rows.py:broken", "ssh://", "cmd:false {}", "cmd:", "local", "compact",
    "accuracy", "rmse", "y", "x=1", "y=0.1", "y.agreement=2", "agreement=0.9", "y=classes",
    "y=values", "y=boxes,format:xyxy", "x=axis:0", "x=axis:9", "2026-01-01", "1:30",
    [], {}, [[]], [None], {"a": 1}, {"": ""}, [1, "a", None], {"kind": "boxes"}, {1: 2},
]  # fmt: skip
"""Each is a value of some type that YAML or a shell can carry."""


def odd_bytes(data: bytes, rng: random.Random) -> bytes:
    """Damage bytes as transfers, editors and disks do."""
    ways: list[Callable[[bytes], bytes]] = [
        lambda d: d[: rng.randrange(len(d) + 1)],
        lambda d: b"",
        lambda d: rng.randbytes(rng.randrange(1, 300)),
        lambda d: _flipped(d, rng),
        lambda d: _flipped(d, rng),
        lambda d: d + d,
        lambda d: d + rng.randbytes(20),
        lambda d: d[(at := rng.randrange(len(d) + 1)) :] + d[:at],
        lambda d: b"\xef\xbb\xbf" + d,
        lambda d: d.replace(b"\n", b"\r\n"),
        lambda d: bytes(len(d)),
        lambda d: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        lambda d: b"<!DOCTYPE html><html><body>404 Not Found</body></html>\n",
    ]
    return rng.choice(ways)(data)


def _flipped(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        if out:
            out[rng.randrange(len(out))] = rng.randrange(256)
    return bytes(out)


def odd_model(data: bytes, rng: random.Random) -> bytes:
    """Change fields of an ONNX model, at any depth; what comes of it can still be parsed."""
    model = ModelProto()
    model.ParseFromString(data)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        places = list(_messages(model))
        _change(rng.choice(places), rng)
    return model.SerializeToString()


def _messages(message: Message) -> Iterator[Message]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for one in value if field.is_repeated else [value]:
            yield from _messages(one)


def _change(message: Message, rng: random.Random) -> None:
    """Drop, repeat or alter one field that is set, or set one that is not."""
    present = [field for field, _ in message.ListFields()]
    field = rng.choice(present if present and rng.random() < 0.8 else message.DESCRIPTOR.fields)
    value = getattr(message, field.name)
    if not field.is_repeated:
        if field.message_type is None and rng.random() < 0.8:
            setattr(message, field.name, _scalar(field, value, rng))
        else:
            message.ClearField(field.name)
        return
    way = rng.randrange(4)
    if not len(value):
        if field.message_type is None:
            value.append(_scalar(field, None, rng))
        else:
            value.add()
    elif way == 0:
        del value[rng.randrange(len(value))]
    elif way == 1:
        value.append(value[rng.randrange(len(value))])
    elif way == 2 and field.message_type is None:
        value[rng.randrange(len(value))] = _scalar(field, value[0], rng)
    elif way == 2:
        value[rng.randrange(len(value))].CopyFrom(value[rng.randrange(len(value))])
    else:
        message.ClearField(field.name)


def _scalar(field: Any, old: Any, rng: random.Random) -> Any:
    """Return another value of a field's type."""
    if field.enum_type is not None:
        return rng.choice([one.number for one in field.enum_type.values])
    kind = field.cpp_type
    if kind == field.CPPTYPE_STRING:
        text = rng.choice(["", "x", "y", "h", "w1", "Relu", "Loop", "[/red]", "ä", "a" * 300])
        return text.encode() if field.type == field.TYPE_BYTES else text
    if kind in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return rng.choice([0.0, -1.0, math.nan, math.inf, 1e38])
    if kind == field.CPPTYPE_BOOL:
        return not old
    small = kind in (field.CPPTYPE_INT32, field.CPPTYPE_UINT32)
    most = 2**31 - 1 if small else 2**62
    signed = kind in (field.CPPTYPE_INT32, field.CPPTYPE_INT64)
    return rng.choice([0, 1, 2, 3, 7, 16, 100, 1 << 20, most, *([-1, -most] if signed else [])])


def odd_rows(data: bytes, rng: random.Random) -> bytes:
    """Change an array of an .npz file, its name, its header, or its number."""
    arrays = dict(np.load(io.BytesIO(data)))
    key = rng.choice(list(arrays))
    array = arrays[key]
    ways: list[Callable[[], Any]] = [
        lambda: array[: rng.choice([0, 1, 2, 5])],
        lambda: array.astype(rng.choice(["f8", "f2", "i4", "u1", "?", "U5", "c8", "S3"])),
        lambda: array.reshape(-1),
        lambda: array[None],
        lambda: array[..., None],
        lambda: array[..., :0],
        lambda: array * np.asarray(rng.choice([0, -1, np.nan, np.inf, 1e30])),
        lambda: np.where(np.arange(array.size).reshape(array.shape) % 7, array, np.nan),
        lambda: np.array(rng.choice([0, 1.5, "a", b"\xff"])),
        lambda: np.array([{"a": 1}, None], dtype=object),
        lambda: np.array(["a", "b"] * (len(array) // 2)),
        lambda: np.zeros((len(array), 3, 0), np.float32),
        lambda: np.zeros(0, np.float32),
    ]
    way = rng.randrange(5)
    if way == 0:
        del arrays[key]
    elif way == 1:
        arrays[rng.choice(["y", "", "labels", "label", "a/b", "../x", "X", "[0]"])] = arrays.pop(
            key
        )
    else:
        with np.errstate(all="ignore"):
            arrays[key] = rng.choice(ways)()
    out = io.BytesIO()
    if way == 4 and rng.random() < 0.3:
        np.save(out, arrays[key], allow_pickle=True)
        return out.getvalue()
    with zipfile.ZipFile(out, "w") as archive:
        for name, one in arrays.items():
            member = io.BytesIO()
            np.save(member, one, allow_pickle=True)
            text = member.getvalue()
            if way == 3 and rng.random() < 0.3:
                text = text.replace(b"(80, 16)", b"(800000, 16)", 1).replace(b"<f4", b"<f8", 1)
            archive.writestr(f"{name}.npy", text)
    return out.getvalue()


def odd_tree(tree: Any, rng: random.Random) -> Any:
    """Change one value, key or entry of plain data, at any depth."""
    places = [(tree, key) for tree, key in _places(tree)]
    if not places:
        return rng.choice(ODD)
    holder, key = rng.choice(places)
    way = rng.random()
    if way < 0.7:
        holder[key] = rng.choice(ODD)
    elif way < 0.8:
        del holder[key]
    elif way < 0.9 and isinstance(holder, dict):
        holder[rng.choice([f"{key}s", f"{key}".upper(), "", 1, None, f" {key}"])] = holder.pop(key)
    elif isinstance(holder, list):
        holder.extend([holder[key]] * rng.choice([1, 3, 200]))
    else:
        holder[key] = [holder[key]] if rng.random() < 0.5 else {"a": holder[key]}
    return tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(tree, dict | list):
        for key in tree if isinstance(tree, dict) else range(len(tree)):
            yield tree, key
            yield from _places(tree[key])


def odd_yaml(data: bytes, rng: random.Random) -> bytes:
    """Change a YAML file: mostly what it says, at times how it is written."""
    if rng.random() < 0.8:
        tree = yaml.safe_load(data)
        for _ in range(rng.choice([1, 1, 1, 2])):
            tree = odd_tree(tree, rng)
        return yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass")
    lines = data.splitlines(keepends=True)
    ways: list[Callable[[], bytes]] = [
        lambda: odd_bytes(data, rng),
        lambda: b"".join([*lines, rng.choice(lines)]),
        lambda: data.replace(b"  ", b"\t"),
        lambda: data.decode().encode("utf-16"),
        lambda: (
            b"a: &a [x]\n" + b"".join(b"b%d: &b%d [*a, *a]\n" % (i, i) for i in range(9)) + data
        ),
        lambda: data + b"\n" + b"[" * 3000,
        lambda: data + b"\nx: !!python/object/apply:os.getcwd []\n",
        lambda: data + b"\n---\n" + data,
        lambda: b"%YAML 9.9\n---\n" + data,
        lambda: b"- " + data.replace(b"\n", b"\n  "),
        lambda: data + b"\n? {a: b}\n: c\n",
        lambda: data + b"\n<<: *nothing\n",
    ]
    return rng.choice(ways)()
