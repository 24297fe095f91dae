"""ONNX graphs as techniques see and change them."""
