"""Continuous batching at the denoising step. Knows a model by its protocol; loads nothing."""
