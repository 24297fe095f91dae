"""Package metadata and entry points: this is all that joins the plugin to mlflow-compress."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

setup(
    name="mlflow-compress-neural-compressor",
    version="0.1.0",
    description="Intel Neural Compressor's algorithms as techniques of mlflow-compress",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["mlflow_compress_neural_compressor*"]),
    install_requires=[
        "mlflow-compress[torch]>=0.1",
        # 3.9 and older, and the releases before torch only, have other interfaces
        "neural-compressor[pt]>=3.10,<3.11",
        # what RTN and GPTQ import and the extra `pt` leaves out
        "accelerate>=1.10",
        "tqdm>=4.67",
    ],
    entry_points={
        "mlflow_compress.techniques": [
            "neural_compressor = mlflow_compress_neural_compressor.weights:TECHNIQUE",
            "neural_compressor_static = mlflow_compress_neural_compressor.static:TECHNIQUE",
        ],
        "mlflow_compress.strategies": [
            "autotune = mlflow_compress_neural_compressor.autotune:Autotune",
        ],
    },
)
