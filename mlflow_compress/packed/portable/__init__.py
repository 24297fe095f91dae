"""The portable profile: weights that an onnxruntime alone unpacks."""
