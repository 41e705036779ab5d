"""Darkroom on a machine without a network, proved with the real wheels: a command of its own.

    python -m tests.airgap.bundle    packs a bundle, installs it in a namespace that has only loopback, and draws

pytest collects none of it: it fetches some hundred megabytes of wheels. docs/airgap.md says what it showed last.
"""
