"""The web page and the documentation viewer: files, and the headers that they are served with."""
