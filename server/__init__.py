"""Darkroom's HTTP front and its workers: everything that a client can see."""

__version__ = "0.1.0"
