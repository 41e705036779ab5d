"""models.yaml: what clients may name, and what draws for it."""
