"""The files that the pages load, each under a name that changes with its content."""

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

__all__ = ["Asset", "asset_names", "find_asset"]

_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}


@dataclass(frozen=True)
class Asset:
    """A file as it is served.

    Attributes:
        name: with a digest of its content, so that a browser may keep it for ever.
        content: its bytes.
        gzipped: the same, compressed.
        media_type: for the browser.
    """

    name: str
    content: bytes
    gzipped: bytes
    media_type: str


def _content(name: str) -> bytes:
    if name == "plotly.js":
        from plotly.offline import get_plotlyjs

        return str(get_plotlyjs()).encode()
    room, _, file = name.rpartition("/")
    return (files(f"mlflow_compress.{room}") / file).read_bytes()


_FILES = {
    "plotly.js": ("plotly.js",),
    "draw.js": ("report/draw.js",),
    "page.css": ("report/page.css", "mlflow_plugin.pages/pages.css"),
}


@cache
def _assets() -> dict[str, Asset]:
    made = {}
    for name, parts in _FILES.items():
        content = b"\n".join(_content(part) for part in parts)
        stem, _, kind = name.rpartition(".")
        full = f"{stem}-{hashlib.sha256(content).hexdigest()[:16]}.{kind}"
        made[name] = Asset(full, content, gzip.compress(content, 6, mtime=0), _TYPES[kind])
    return made


def asset_names() -> dict[str, str]:
    """Return each file's name as it is served, by its plain name."""
    return {name: asset.name for name, asset in _assets().items()}


def find_asset(name: str) -> Asset | None:
    """Return the file with a served name."""
    return next((asset for asset in _assets().values() if asset.name == name), None)
