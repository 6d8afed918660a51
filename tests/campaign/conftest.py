"""What runs in ``make soak`` alone is not collected otherwise."""

import os

collect_ignore = [] if os.environ.get("TRACEBOND_CAMPAIGN") else ["test_halmos.py", "test_mutants.py"]
