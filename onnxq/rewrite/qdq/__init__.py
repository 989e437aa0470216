"""Encodings as nodes: how each family is written into a graph, and how it is read back."""
