"""Finding, parsing, running and watching passes."""
