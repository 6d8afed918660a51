"""Vyper sources and artifacts, and the only code that talks to a chain."""
