"""Store, keys, log, proofs, followers and audit; owns the database session and its commit."""
