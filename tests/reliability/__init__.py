"""Suites that take minutes or hours: each a command; docs/reliability.md has the latest results."""
