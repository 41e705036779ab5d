"""A Ray cluster of several nodes on one machine, tried by a command of its own: it takes minutes, and needs Ray."""
