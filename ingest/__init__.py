"""From the broker to the ledger: verify, store, acknowledge, give a receipt, or quarantine."""
