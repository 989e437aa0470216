"""The graph: loading, editing, checking and printing it."""
