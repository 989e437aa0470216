"""The passes: one module, one pass; found by name."""
