"""Commands that ask for pictures: through a running server, or through one inside this process."""
