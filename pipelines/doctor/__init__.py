"""What a device does with Darkroom, measured: the sections of ``darkroom doctor --gpu``."""
