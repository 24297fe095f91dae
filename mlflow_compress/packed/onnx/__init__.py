"""ONNX files as they are: graphs, tensors, and the bytes of both."""
