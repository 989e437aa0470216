"""ONNX Runtime, and nothing else touches it."""
