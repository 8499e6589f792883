"""The configuration: reads TOML into a `Config`, and reports all errors together."""

from s2sgw.config.errors import ConfigError
from s2sgw.config.loading import load, parse
from s2sgw.config.sections import DNS, TLS, Backend, Config, Console, Gateway, Listener, Log, Policy, Queue

__all__ = [
    "DNS", "TLS", "Backend", "Config", "ConfigError", "Console", "Gateway", "Listener", "Log", "Policy", "Queue", "load", "parse",
]
