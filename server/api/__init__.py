"""The routes: what clients call, and how bodies become specs and pictures become answers."""
