"""Package metadata, extras, entry points and the optional C extension."""

import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup

HERE = Path(__file__).parent

# The versions named here are the oldest that the suite has been run with, not guesses.
INSTALL = [
    "mlflow>=3.17",
    "onnx>=1.23",
    "onnxruntime>=1.32",
    "numpy>=2.0",
    "scipy>=1.15",
    "optuna>=5.0",
    "click>=8.1",
    "packaging>=24.0",
    "pydantic>=2.10",
    "PyYAML>=6.0",
    "rich>=14.0",
    "plotly>=6.0",
    "Jinja2>=3.1",
    "tenacity>=9.0",
    "threadpoolctl>=3.5",
    "loky>=3.5",
    "cloudpickle>=3.1",
    # the webhook receiver; MLflow's own server brings both
    "starlette>=1.10",
    "uvicorn>=0.54",
]
DASK = ["dask>=2026.3", "distributed>=2026.3"]
RAY = ["ray>=2.55"]
TORCH = ["torch>=2.13", "onnxscript>=0.7"]
TEXT = ["jiwer>=4.0"]
BOXES = ["pycocotools>=2.0.11"]
TEST = [
    "pytest>=9.0",
    "pytest-xdist>=3.8",
    "hypothesis>=6.100",
    "mlxtend>=0.25",
    "psycopg2-binary>=2.9",
    "playwright>=1.65",
    "mlflow[auth]>=3.17",
    *DASK,
    *RAY,
    *TEXT,
    *BOXES,
]
# What benchmarks/packing.py measures beside the project, and what benchmarks/kinds.py reads text
# with. nncodec is left out: it states numpy<2 (`make bench` installs it without its dependencies).
# zipnn needs torch.
BENCH = ["zstandard>=0.23", "brotli>=1.1", "zipnn>=0.5", "constriction>=0.4", "simple-ans>=0.3",
         "tokenizers>=0.21"]  # fmt: skip
LINT = ["ruff>=0.17", "mypy>=2.0", "import-linter>=2.17", "types-PyYAML"]

CODEC = "mlflow_compress/packed/codec/c"
SOURCES = [
    "huffman",
    "memory",
    "parse",
    "leaves",
    "payload",
    "lengths",
    "split",
    "cluster",
    "encode",
    "crc32",
    "portable",
    "_writing",
    "_huffmanmodule",
]
HUFFMAN = Extension(
    "mlflow_compress.packed.codec._huffman",
    [f"{CODEC}/{name}.c" for name in SOURCES],
    depends=[
        f"{CODEC}/{name}.h" for name in ("huffman", "lanes", "bits", "tree", "portable", "binding")
    ],
    extra_compile_args=["/O2"] if sys.platform == "win32" else ["-O3", "-std=c11", "-g0"],
    optional=True,  # without a compiler the package installs all the same, and numpy decodes
)

setup(
    name="mlflow-compress",
    version="0.1.0",
    description="Compress MLflow models and promote the best variant to each edge target",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["mlflow_compress", "mlflow_compress.*"]),
    ext_modules=[HUFFMAN],
    package_data={
        "mlflow_compress": [
            "py.typed",
            "targets/profiles/*.yaml",
            "report/*.j2",
            "report/*.css",
            "report/*.js",
            "mlflow_plugin/pages/*.css",
            "mlflow_plugin/pages/templates/*.j2",
            "packed/codec/c/*.h",
            "packed/codec/c/*.c",
            "packed/codec/*.pyi",
        ]
    },
    install_requires=INSTALL,
    extras_require={
        "torch": TORCH,
        "dask": DASK,
        "ray": RAY,
        "text": TEXT,
        "boxes": BOXES,
        "demo": [*TORCH, "mlxtend>=0.25"],
        "test": TEST,
        "lint": LINT,
        "bench": BENCH,
        "all": [*TORCH, *DASK, *RAY, *TEXT, *BOXES],
    },
    entry_points={
        "console_scripts": ["mlflow-compress = mlflow_compress.__main__:main"],
        "mlflow.run_context_provider": [
            "mlflow_compress = mlflow_compress.mlflow_plugin.context:CompressRunContext",
        ],
        "mlflow.request_header_provider": [
            "mlflow_compress = mlflow_compress.mlflow_plugin.context:ForwardedHeaders",
        ],
        "mlflow.app": [
            "compress = mlflow_compress.mlflow_plugin.pages.open:create_app",
            "compress-auth = mlflow_compress.mlflow_plugin.pages.with_auth:create_app",
        ],
        "mlflow.deployments": ["edge = mlflow_compress.mlflow_plugin.deployment"],
        "mlflow_compress.techniques": [
            "dynamic = mlflow_compress.techniques.dynamic:TECHNIQUE",
            "entropy_share = mlflow_compress.techniques.entropy_share:TECHNIQUE",
            "distill = mlflow_compress.techniques.distill:TECHNIQUE",
            "float16 = mlflow_compress.techniques.float16:TECHNIQUE",
            "fold = mlflow_compress.techniques.fold:TECHNIQUE",
            "prune = mlflow_compress.techniques.prune:TECHNIQUE",
            "repair = mlflow_compress.techniques.repair:TECHNIQUE",
            "quantize = mlflow_compress.techniques.quantize:TECHNIQUE",
            "share = mlflow_compress.techniques.share:TECHNIQUE",
            "separable = mlflow_compress.techniques.separable:TECHNIQUE",
            "prune_layers = mlflow_compress.search.per_layer:PRUNE",
            "share_layers = mlflow_compress.search.per_layer:SHARE",
            "weight_only_layers = mlflow_compress.search.per_layer:WEIGHT_ONLY",
            "shrink = mlflow_compress.techniques.shrink:TECHNIQUE",
            "trim = mlflow_compress.techniques.trim:TECHNIQUE",
            "weight_only = mlflow_compress.techniques.weight_only:TECHNIQUE",
        ],
        "mlflow_compress.metrics": [
            "accuracy = mlflow_compress.measure.metrics.classification:ACCURACY",
            "average_precision = mlflow_compress.measure.metrics.ranking:AVERAGE_PRECISION",
            "balanced_accuracy = mlflow_compress.measure.metrics.classification:BALANCED_ACCURACY",
            "cer = mlflow_compress.measure.metrics.text:CER",
            "coco_map = mlflow_compress.measure.metrics.boxes:COCO_MAP",
            "cosine = mlflow_compress.measure.metrics.regression:COSINE",
            "dice = mlflow_compress.measure.metrics.segmentation:DICE",
            "f1 = mlflow_compress.measure.metrics.classification:F1",
            "iou = mlflow_compress.measure.metrics.segmentation:IOU",
            "mae = mlflow_compress.measure.metrics.regression:MAE",
            "mlflow = mlflow_compress.mlflow_plugin.metrics:MLFLOW",
            "nearest_neighbour = mlflow_compress.measure.metrics.retrieval:NEAREST_NEIGHBOUR",
            "pearson = mlflow_compress.measure.metrics.regression:PEARSON",
            "perplexity = mlflow_compress.measure.metrics.text:PERPLEXITY",
            "r2 = mlflow_compress.measure.metrics.regression:R2",
            "recall = mlflow_compress.measure.metrics.retrieval:RECALL",
            "rmse = mlflow_compress.measure.metrics.regression:RMSE",
            "roc_auc = mlflow_compress.measure.metrics.ranking:ROC_AUC",
            "si_sdr = mlflow_compress.measure.metrics.signal:SI_SDR",
            "spearman = mlflow_compress.measure.metrics.regression:SPEARMAN",
            "top = mlflow_compress.measure.metrics.classification:TOP",
            "top-1 = mlflow_compress.measure.metrics.classification:TOP_1",
            "wer = mlflow_compress.measure.metrics.text:WER",
        ],
        "mlflow_compress.executors": [
            "inline = mlflow_compress.search.executors:Inline",
            "process = mlflow_compress.search.executors:Process",
            "dask = mlflow_compress.search.clusters:Dask",
            "ray = mlflow_compress.search.clusters:Ray",
        ],
        "mlflow_compress.strategies": [
            "manual = mlflow_compress.search.strategies:Manual",
            "grid = mlflow_compress.search.strategies:Grid",
            "random = mlflow_compress.search.strategies:Random",
            "gp = mlflow_compress.search.strategies:Gp",
            "tpe = mlflow_compress.search.strategies:Tpe",
            "nsga2 = mlflow_compress.search.strategies:Nsga2",
            "evolution = mlflow_compress.search.strategies:Evolution",
        ],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
