"""Running data through a model and keeping what was seen."""
