"""HTTP: resolver, pages, EPCIS, consoles, open API."""
