"""Floor 2: what a certificate or a DNS answer proves. Pure."""
