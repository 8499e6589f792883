"""Measurements on this machine: `make bench` (python -m bench). Processes and servers are started by the lab's launchers."""
