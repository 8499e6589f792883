"""Floor 2: what the SASL mechanisms compute: SCRAM and DIGEST-MD5. Pure."""
