"""Pages and lines of text, drawn, as models that read documents take them."""

import functools
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from real.pictures import Picture, crops, photos
from real.sessions import opened
from real.store import Rows, Store
from real.texts import paragraphs, sentences

_FONTS = Path("/usr/share/fonts/truetype")  # Debian's fonts-dejavu and fonts-liberation
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
_SEEDS = {"cal": 11, "eval": 12}
LINE = (48, 320)  # height and width of a line for the recognizer


@functools.cache
def fonts() -> tuple[str, ...]:
    """Return the font files there are.

    Raises:
        FileNotFoundError: when there are none.
    """
    found = sorted(
        str(file)
        for folder in ("dejavu", "liberation")
        for file in (_FONTS / folder).glob("*.ttf")
        if "Math" not in file.name
    )
    if not found:
        raise FileNotFoundError(
            f"no fonts in {_FONTS}: run `apt-get install fonts-dejavu fonts-liberation`"
        )
    return tuple(found)


class _Page:
    """One page: a title, columns of paragraphs, tables and pictures."""

    def __init__(self, store: Store, rng: np.random.Generator, width: int, height: int) -> None:
        self.store, self.rng, self.width, self.height = store, rng, width, height
        self.paper = tuple(int(level) for level in rng.integers(225, 256, 3))
        self.ink = tuple(int(level) for level in rng.integers(0, 70, 3))
        self.picture = Image.new("RGB", (width, height), self.paper)
        self.draw = ImageDraw.Draw(self.picture)
        name = fonts()[rng.integers(len(fonts()))]
        self.size = int(rng.integers(max(10, height // 70), max(13, height // 28)))
        self.font = ImageFont.truetype(name, self.size)
        self.title = ImageFont.truetype(name, int(self.size * 1.8))

    def drawn(self) -> Picture:
        rng, margin = self.rng, int(self.width * 0.07)
        top = margin
        columns = int(rng.integers(1, 3))
        wide = (self.width - 2 * margin - (columns - 1) * margin) // columns
        if rng.random() < 0.7:
            title = _paragraph(rng)[: self.width // self.size]
            self.draw.text((margin, top), title, font=self.title, fill=self.ink)
            top += self.size * 3
        for column in range(columns):
            self._column(margin + column * (wide + margin), top, wide, self.height - margin)
        picture = self.picture
        if rng.random() < 0.4:
            picture = picture.rotate(rng.uniform(-2, 2), fillcolor=self.paper)
        if rng.random() < 0.4:
            picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1)))
        return picture

    def _column(self, left: int, top: int, wide: int, bottom: int) -> None:
        while top < bottom - self.size * 2:
            if self.rng.random() < 0.12:
                high = int(self.rng.uniform(0.1, 0.22) * self.height)
                draw = self._photo if self.rng.random() < 0.5 else self._table
                draw(left, top, wide, high)
                top += high + self.size
            top = self._text(left, top, wide, bottom)

    def _text(self, left: int, top: int, wide: int, bottom: int) -> int:
        line = ""
        for word in _paragraph(self.rng).split():
            longer = f"{line} {word}".strip()
            if self.draw.textlength(longer, font=self.font) <= wide:
                line = longer
                continue
            self.draw.text((left, top), line, font=self.font, fill=self.ink)
            top += int(self.size * 1.3)
            line = word
            if top > bottom - self.size:
                return top
        self.draw.text((left, top), line, font=self.font, fill=self.ink)
        return top + self.size * 2

    def _photo(self, left: int, top: int, wide: int, high: int) -> None:
        pixels = crops(_coffee(self.store), 1, 64, self.rng)[0]
        photo = Image.fromarray(pixels.astype(np.uint8)).resize((wide, high))
        self.picture.paste(photo, (left, top))

    def _table(self, left: int, top: int, wide: int, high: int) -> None:
        for row in range(5):
            y = top + row * high // 4
            self.draw.line((left, y, left + wide, y), fill=self.ink, width=2)
        for column in range(4):
            x = left + column * wide // 3
            self.draw.line((x, top, x, top + high), fill=self.ink, width=2)
        for row in range(4):
            for column in range(3):
                at = (left + column * wide // 3 + 4, top + row * high // 4 + 4)
                number = str(self.rng.integers(0, 9999))
                self.draw.text(at, number, font=self.font, fill=self.ink)


@functools.cache
def _coffee(store: Store) -> tuple[Picture, ...]:
    return tuple(photos(store, "cal")[6:7])


def _paragraph(rng: np.random.Generator) -> str:
    return paragraphs()[rng.integers(len(paragraphs()))]


def orientation(store: Store, part: str) -> Rows:
    """Return pages turned by quarters, 224 pixels, and by how many."""
    rng = np.random.default_rng(_SEEDS[part])
    rows, turns = [], []
    for _ in range({"cal": 320, "eval": 400}[part]):
        page = _Page(store, rng, *(int(side) for side in rng.integers(420, 640, 2))).drawn()
        turn = int(rng.integers(4))
        page = page.rotate(90 * turn, expand=True)
        scale = 256 / min(page.size)
        wide, high = (int(side * scale) for side in page.size)
        left, top = (wide - 224) // 2, (high - 224) // 2
        page = page.resize((wide, high), Image.BILINEAR)
        page = page.crop((left, top, left + 224, top + 224))
        rows.append((np.asarray(page, np.float32) / 255 - _MEAN) / _DEVIATION)
        turns.append(-turn % 4)  # the model counts clockwise, Pillow the other way
    return Rows({"x": _planes(rows)}, {"labels": np.array(turns)})


def layout(store: Store, part: str) -> Rows:
    """Return pages of 608 by 800 pixels."""
    rng = np.random.default_rng([_SEEDS[part], 1])
    pages = [_Page(store, rng, 608, 800).drawn() for _ in range({"cal": 64, "eval": 60}[part])]
    rows = [(np.asarray(page, np.float32) / 255 - _MEAN) / _DEVIATION for page in pages]
    return Rows({"image": _planes(rows)})


def text_areas(store: Store, part: str) -> Rows:
    """Return pages of 320 pixels, BGR in -1 to 1, for the detector of text."""
    rng = np.random.default_rng([_SEEDS[part], 2])
    rows = []
    for _ in range({"cal": 240, "eval": 150}[part]):
        page = _Page(store, rng, *(int(side) for side in rng.integers(360, 640, 2))).drawn()
        left, top = (int(rng.integers(0, side - 319)) for side in page.size)
        page = page.crop((left, top, left + 320, top + 320))
        rows.append(np.asarray(page, np.float32)[..., ::-1] / 127.5 - 1)
    return Rows({"x": _planes(rows)})


def text_lines(store: Store, part: str) -> Rows:
    """Return lines of 6 to 34 characters, BGR in -1 to 1, what they say, and the alphabet."""
    rng = np.random.default_rng([_SEEDS[part], 3])
    rows, texts = [], []
    half = len(sentences()) // 2
    start = {"cal": 0, "eval": half}[part]
    while len(rows) < {"cal": 400, "eval": 300}[part]:
        words = sentences()[start + int(rng.integers(half))].split()
        text, wanted = "", int(rng.integers(6, 35))
        for word in words[int(rng.integers(len(words))) :]:
            if len(text) + 1 + len(word) > wanted:
                break
            text = f"{text} {word}".strip()
        if len(text) >= 4 and text.isascii():
            rows.append(_line(text, rng))
            texts.append(text)
    truth = {"labels": np.array(texts), "alphabet": _alphabet(store)}
    return Rows({"x": _planes(rows)}, truth)


def _alphabet(store: Store) -> np.ndarray:
    """Return the recognizer's characters by number; 0 is the blank."""
    session = opened(next(store.package("rapidocr-onnxruntime").rglob("*_rec_infer.onnx")))
    known = session.get_modelmeta().custom_metadata_map["character"].splitlines()
    return np.array(["", *known, " "])


def _line(text: str, rng: np.random.Generator) -> np.ndarray:
    font = ImageFont.truetype(fonts()[rng.integers(len(fonts()))], int(rng.integers(20, 44)))
    paper, ink = (int(level) for level in (rng.integers(170, 256), rng.integers(0, 90)))
    if rng.random() < 0.15:
        paper, ink = ink, paper
    left, top, right, bottom = font.getbbox(text)
    border = int(rng.integers(3, 9))
    size = (int(right - left) + 2 * border, int(bottom - top) + 2 * border)
    picture = Image.new("RGB", size, (paper,) * 3)
    ImageDraw.Draw(picture).text((border - left, border - top), text, font=font, fill=(ink,) * 3)
    if rng.random() < 0.5:
        picture = picture.rotate(rng.uniform(-1.5, 1.5), fillcolor=(paper,) * 3)
    if rng.random() < 0.5:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.2)))
    height, width = LINE
    wide = min(width, round(picture.width * height / picture.height))
    pixels = np.asarray(picture.resize((wide, height), Image.BILINEAR), np.float32)
    pixels = pixels + rng.normal(0, rng.uniform(0, 12), pixels.shape)
    padded = np.zeros((height, width, 3), np.float32)
    padded[:, :wide] = np.clip(pixels, 0, 255)[..., ::-1] / 127.5 - 1
    return padded


def _planes(rows: list[np.ndarray]) -> np.ndarray:
    return np.ascontiguousarray(np.stack(rows).transpose(0, 3, 1, 2), dtype=np.float32)
