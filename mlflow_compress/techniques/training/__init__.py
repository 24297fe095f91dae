"""ONNX models as torch modules: run, trained and written back."""
