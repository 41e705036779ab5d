"""``darkroom models``: what can be drawn with, and what is done to a model by hand."""
