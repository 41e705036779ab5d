"""``darkroom doctor``: what is this machine, and what of models.yaml fits it?"""
