"""Arithmetic of quantization on plain arrays: no graph, no runtime."""
