"""`s2sgw version`: the versions for a bug report."""

from __future__ import annotations

import platform
import ssl
import sys
from importlib.metadata import PackageNotFoundError, version

import click

from s2sgw import __version__
from s2sgw.cli.output import JSONForm, json_option, show
from s2sgw.cli.text_table import JSONRow, Screen, paragraphs

#: Distributions that are listed.
LIBRARIES = ("Twisted", "cryptography", "pyOpenSSL", "service_identity", "dnspython", "pydantic", "idna", "click")


@click.command("version")
@click.option("--verbose", "-v", is_flag=True, help="Also show Python, the system, and the libraries.")
@json_option
def version_command(verbose: bool, as_json: JSONForm) -> None:
    """Show the version."""
    found: JSONRow = {"s2sgw": __version__}
    if verbose:
        found |= {
            "Python": f"{platform.python_version()} ({sys.executable})", "system": f"{platform.system()} {platform.release()}",
            **{name: _version(name) for name in LIBRARIES},
            "OpenSSL of cryptography": _openssl(), "OpenSSL of Python": ssl.OPENSSL_VERSION,
        }
    show(found, as_json, _lines)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _openssl() -> str:
    """Return the version of OpenSSL that does the TLS of the gateway."""
    from cryptography.hazmat.backends.openssl import backend

    return backend.openssl_version_text()


def _lines(found: JSONRow, screen: Screen) -> str:
    return paragraphs((f"{name} {value}" for name, value in found.items()), screen)
