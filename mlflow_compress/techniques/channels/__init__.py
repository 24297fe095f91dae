"""Channels of an ONNX graph: which weights make and read them, and what may be cut."""
