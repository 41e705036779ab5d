"""``darkroom bench``: load on a running server."""
