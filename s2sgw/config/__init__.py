"""The configuration: TOML to one frozen `Config`, with all complaints at once."""

from s2sgw.config.errors import ConfigError
from s2sgw.config.loading import load, parse
from s2sgw.config.sections import DNS, TLS, Backend, Config, Console, Gateway, Listener, Log, Policy, Queue

__all__ = [
    "DNS", "TLS", "Backend", "Config", "ConfigError", "Console", "Gateway", "Listener", "Log", "Policy", "Queue", "load", "parse",
]
