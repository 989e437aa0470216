"""Strategies over the engine: each proposes builds, scores them, and keeps the best."""
