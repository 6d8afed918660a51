"""Signing in: users and persons, passwords, sessions, one-time logins and throttling."""
