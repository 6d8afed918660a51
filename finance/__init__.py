"""Credit against goods whose history verifies."""
