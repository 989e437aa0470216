"""Random valid ONNX models, from a seed or from hypothesis: ``random_sample``."""
