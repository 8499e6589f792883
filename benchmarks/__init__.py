"""Measurements on this machine: `make bench` (python -m benchmarks). Processes and servers are started by the lab's launchers."""
