"""Photographs that packages ship, and crops of them as picture models take them.

Crops to look at and crops to judge by come from different photographs.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import sklearn
from onnx import ModelProto
from PIL import Image, ImageEnhance, ImageFilter

from real.store import Arrays, Rows, Store

Picture = Image.Image

_PHOTOS = {
    "cal": {
        "ultralytics": ("assets/bus.jpg",),
        "insightface": ("t1.jpg", "mask_black.jpg", "mask_blue.jpg", "Tom_Hanks_54745.png"),
        "scikit-image": (
            "motorcycle_left.png", "coffee.png", "hubble_deep_field.jpg", "coins.png",
        ),
        "sklearn": ("china.jpg",),
    },
    "eval": {
        "ultralytics": ("assets/zidane.jpg",),
        "insightface": ("mask_green.jpg", "mask_white.jpg"),
        "scikit-image": (
            "astronaut.png", "chelsea.png", "rocket.jpg", "retina.jpg", "camera.png",
            "motorcycle_right.png",
        ),
        "sklearn": ("flower.jpg",),
    },
}  # fmt: skip
_FACES = {"cal": slice(0, 60), "eval": slice(60, 96)}  # of the 100 faces of scikit-image
_SEEDS = {"cal": 1, "eval": 2}


def photos(store: Store, part: str) -> list[Picture]:
    """Return photographs and sheets of twelve small faces, in RGB."""
    found = []
    for package, names in _PHOTOS[part].items():
        folder = Path(sklearn.__file__).parent if package == "sklearn" else store.package(package)
        for name in names:
            file = next(folder.rglob(name))
            found.append(Image.open(file).convert("RGB"))
    faces = np.load(next(store.package("scikit-image").rglob("lfw_subset.npy")))[_FACES[part]]
    sheets = [_sheet(faces[start : start + 12]) for start in range(0, len(faces), 12)]
    return found + sheets


def _sheet(faces: np.ndarray) -> Picture:
    sheet = Image.new("RGB", (640, 480))
    for index, face in enumerate(faces):
        tile = Image.fromarray((face * 255).astype(np.uint8)).resize((160, 160), Image.BICUBIC)
        sheet.paste(tile.convert("RGB"), (index % 4 * 160, index // 4 * 160))
    return sheet


def crops(
    pictures: Sequence[Picture], count: int, size: int, rng: np.random.Generator
) -> np.ndarray:
    """Return [count, size, size, 3] float32 of 0 to 255: cut, mirrored, lit, sometimes blurred."""
    rows = []
    for index in range(count):
        picture = pictures[index % len(pictures)]
        width, height = picture.size
        first = index < len(pictures)
        side = min(width, height) * (1.0 if first else rng.uniform(0.45, 1.0))
        left, top = rng.uniform(0, width - side), rng.uniform(0, height - side)
        crop = picture.crop((left, top, left + side, top + side))
        crop = crop.resize((size, size), Image.BILINEAR)
        if rng.random() < 0.5:
            crop = crop.transpose(Image.FLIP_LEFT_RIGHT)
        crop = ImageEnhance.Brightness(crop).enhance(rng.uniform(0.6, 1.4))
        crop = ImageEnhance.Contrast(crop).enhance(rng.uniform(0.7, 1.3))
        if rng.random() < 0.25:
            crop = crop.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.5)))
        rows.append(np.asarray(crop, np.float32))
    return np.stack(rows)


def _crops(store: Store, part: str, counts: Arrays | dict[str, int], size: int) -> np.ndarray:
    rng = np.random.default_rng([size, _SEEDS[part]])
    return crops(photos(store, part), int(counts[part]), size, rng)


def nudenet(store: Store, part: str) -> Rows:
    """Return pictures of 320 pixels in 0 to 1."""
    pixels = _crops(store, part, {"cal": 240, "eval": 160}, 320)
    return Rows({"images": np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)) / np.float32(255)})


def centerface(store: Store, part: str) -> Rows:
    """Return pictures of 224 pixels in 0 to 255."""
    pixels = _crops(store, part, {"cal": 320, "eval": 200}, 224)
    return Rows({"input.1": np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))})


def opennsfw(store: Store, part: str) -> Rows:
    """Return pictures of 224 pixels in BGR, less a mean."""
    pixels = _crops(store, part, {"cal": 320, "eval": 200}, 224)
    mean = np.array([104, 117, 123], np.float32)
    return Rows({"input:0": np.ascontiguousarray(pixels[..., ::-1] - mean)})


def any_size(file: Path) -> ModelProto:
    """Return centerface with free batch and size, as its package makes it when it runs."""
    model = onnx.load(file)
    channels = {"537": 1, "538": 2, "539": 2, "540": 10}
    _free(next(value for value in model.graph.input if value.name == "input.1"), 3, "HW")
    for value in model.graph.output:
        _free(value, channels[value.name], "hw")
    return model


def _free(value: onnx.ValueInfoProto, channels: int, sides: str) -> None:
    shape = value.type.tensor_type.shape
    del shape.dim[:]
    for size in ("B", channels, *sides):
        dim = shape.dim.add()
        if isinstance(size, int):
            dim.dim_value = size
        else:
            dim.dim_param = size
