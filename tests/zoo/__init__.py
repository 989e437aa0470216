"""Small models of common architectures, built from their configurations with seeded weights, and exported."""
