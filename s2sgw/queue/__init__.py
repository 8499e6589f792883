"""The pure content of delivery queues: stanzas in custody, back-off, bounces, delay stamps."""
