"""Everything that touches torch and diffusers. Knows nothing of HTTP."""
