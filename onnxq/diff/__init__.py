"""What changed between two models: which nodes belong together, and how they differ."""
