"""Intel Neural Compressor for mlflow-compress: two techniques and a strategy, by entry point."""
