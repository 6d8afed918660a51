"""Pictures drawn on the server as SVG: nothing is lost with scripts off."""
