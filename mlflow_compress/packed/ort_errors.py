"""What onnxruntime raises: its exceptions have no common base class."""

from onnxruntime.capi import onnxruntime_pybind11_state

__all__ = ["ORT_ERRORS", "RUN_ERRORS"]

ORT_ERRORS: tuple[type[Exception], ...] = tuple(
    kind
    for kind in vars(onnxruntime_pybind11_state).values()
    if isinstance(kind, type) and issubclass(kind, Exception)
)
"""When a session is made."""

RUN_ERRORS: tuple[type[Exception], ...] = (*ORT_ERRORS, ValueError, RuntimeError)
"""When it runs."""
