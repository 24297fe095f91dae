"""Compress MLflow models and promote the best variant to each edge target."""
