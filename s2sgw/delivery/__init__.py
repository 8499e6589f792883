"""Custody of stanzas for each pair, and their delivery to the next hop."""
