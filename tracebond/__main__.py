"""``python -m tracebond``."""

from tracebond.cli import main

main()
