"""What the gateway says of itself: the record of refusals and changes, log, metrics, audit log, escaping."""
