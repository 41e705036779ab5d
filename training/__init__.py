"""How Darkroom's own small text-to-image model is made, from the art packages to a diffusers folder."""
