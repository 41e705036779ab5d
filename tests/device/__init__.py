"""A CUDA device that is not there, and the tests that run on it. docs/gpu.md says what it proves and what it cannot."""
