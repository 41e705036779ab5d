"""What is told without torch: families, samplers, presets, folders."""
