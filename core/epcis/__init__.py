"""The EPCIS 2.0 model: what an event says, whether it is well said, what it names, and its GS1 hash."""
