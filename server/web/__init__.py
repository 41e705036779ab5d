"""The web: the page and the documentation viewer, their files, and the headers that they are served with."""
