"""From a folder to a device: loading, tuning, residency, and the check at load."""
