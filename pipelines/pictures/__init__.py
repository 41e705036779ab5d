"""Arithmetic on pixels."""
