"""A plugin is a package with an entry point: nothing else joins it to mlflow-compress."""

from setuptools import setup

setup(
    name="mlflow-compress-mantissa",
    version="0.1.0",
    description="Trims mantissas of weights, as a technique of mlflow-compress",
    python_requires=">=3.11",
    py_modules=["mlflow_compress_mantissa"],
    install_requires=["mlflow-compress>=0.1"],
    entry_points={
        # the name in compress.yaml = module:attribute
        "mlflow_compress.techniques": ["mantissa = mlflow_compress_mantissa:TECHNIQUE"],
    },
)
