"""``darkroom bundle``: all of a server in one file that travels to a machine without a network."""
