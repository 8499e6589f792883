"""The leg to the existing server."""
