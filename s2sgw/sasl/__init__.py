"""The computations of the SASL mechanisms SCRAM and DIGEST-MD5. Pure."""
