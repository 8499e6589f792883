"""Floor 2: lanes, schedules, bounces and the spool."""
