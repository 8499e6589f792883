"""The durable part of the queue: its interface, SQLite, and a spool in memory."""
