"""The consoles behind sign-in: bank, goods side, regulator, operator."""
