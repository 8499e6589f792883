"""Custody of stanzas per pair, and handing them to the next hop."""
