"""Migrations of the web tables, the branch ``api``."""
