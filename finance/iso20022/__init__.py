"""ISO 20022 messages: payment orders and collateral messages out, credit notifications in."""
