"""Changing graphs: the Editor and the Builder, and what passes share that stands on them."""
