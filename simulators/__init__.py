"""Signing devices and the stories they tell; they know only the wire."""
