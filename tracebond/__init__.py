"""The command and the composition root."""
