"""The vocabulary below everything: identifiers, EPCIS, messages, records, Merkle trees, proofs. No I/O."""
