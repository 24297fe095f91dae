"""A bounded folder of models made by the first steps of recipes, found by what made them.

Safe with several processes: entries are written beside and renamed, read whole and checked
against their digest, and whoever finds the folder too full deletes what was used longest ago. The
cache is a help, never a need: what is damaged, gone or cannot be written is computed again.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, EncodeError

from mlflow_compress.base.json_text import parse_json

__all__ = ["Entry", "StepCache", "is_cached"]

_log = logging.getLogger(__name__)

_SUFFIX = ".step"
_DIGEST = hashlib.sha256().digest_size
_NAME = re.compile(r"[0-9a-f]{64}(\.step|\.[0-9a-f]{32}\.part)")
_ABANDONED = 3600
"""Seconds after which a file that was never renamed belongs to nobody."""


@dataclass(frozen=True)
class Entry:
    """What some first steps of a recipe made.

    Attributes:
        model: the model after them.
        origin: source initializer of each initializer that the source does not have.
        notes: what the last of the steps had to say.
    """

    model: onnx.ModelProto
    origin: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class StepCache:
    """Keeps entries by key in one folder.

    Args:
        folder: made when it is missing; only files for which :func:`is_cached` are deleted.
        limit: bytes that the entries may take together.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit

    def get(self, key: str) -> Entry | None:
        """Return an entry and mark it as used; one that is damaged is deleted."""
        path = self._path(key)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        try:
            entry = _decode(data)
        except (ValueError, KeyError, TypeError, DecodeError):
            _log.debug("cache entry %s is damaged and dropped", path)
            _delete(path)
            return None
        with contextlib.suppress(OSError):  # another process may have deleted it since
            os.utime(path)
        return entry

    def put(self, key: str, entry: Entry) -> None:
        """Keep an entry, and delete the least recently used ones beyond the limit."""
        try:
            data = _encode(entry)
        except (ValueError, EncodeError):
            return  # beyond what protobuf can hold in one message
        if len(data) > self.limit:
            return
        part = self.folder / f"{key}.{uuid.uuid4().hex}.part"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            part.write_bytes(data)
            part.replace(self._path(key))
            self._shrink()
        except OSError as error:
            _log.debug("cache entry %s is not kept: %s", key, error)
            _delete(part)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"

    def _shrink(self) -> None:
        """Delete what was used longest ago until the entries fit, and what writers left behind."""
        entries, total = [], 0
        for path in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                status = path.lstat()
                if not is_cached(path):
                    continue
                if path.suffix == _SUFFIX:
                    entries.append((status.st_mtime_ns, status.st_size, path))
                    total += status.st_size
                elif time.time() - status.st_mtime > _ABANDONED:
                    _delete(path)
        for _, size, path in sorted(entries):
            if total <= self.limit:
                break
            _delete(path)
            total -= size


def is_cached(path: Path) -> bool:
    """Whether this is an entry, or what an unfinished writer left, by its name."""
    return bool(_NAME.fullmatch(path.name))


def _delete(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _encode(entry: Entry) -> bytes:
    """Return digest, head and model: sha256 of the rest, a line of JSON, the model's bytes."""
    head = json.dumps({"origin": dict(entry.origin), "notes": list(entry.notes)})
    body = head.encode() + b"\n" + entry.model.SerializeToString()
    return hashlib.sha256(body).digest() + body


def _decode(data: bytes) -> Entry:
    digest, body = data[:_DIGEST], data[_DIGEST:]
    if hashlib.sha256(body).digest() != digest:
        raise ValueError("the digest does not fit")
    head, _, model = body.partition(b"\n")
    told = parse_json(head)
    return Entry(onnx.load_model_from_string(model), told["origin"], tuple(told["notes"]))
