"""Numeric methods on numpy arrays, without any model."""
