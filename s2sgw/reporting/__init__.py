"""The gateway's reports about itself: the record of refusals and changes, log, metrics, audit log, escaping."""
