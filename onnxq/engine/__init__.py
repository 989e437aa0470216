"""The engine: a model is opened once, measured once, and built as often as a search wants."""
