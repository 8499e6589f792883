"""Actions on the whole gateway while it runs: policy change, deny lists, rediscovery, preflight, shutdown."""
