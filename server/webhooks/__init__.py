"""Webhooks: telling a URL of the client's that its job has ended, signed as Standard Webhooks has it. No routes."""
