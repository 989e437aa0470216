"""Small models of common architectures, built from their configurations with seeded weights, and exported."""

import os

import pytest

tedious = pytest.mark.skipif(not os.environ.get("ONNXQ_ZOO"), reason="takes half an hour: set ONNXQ_ZOO=1")
"""A test of the whole zoo."""
