"""``darkroom bench``: load on a running server, and a report of what it gave."""
