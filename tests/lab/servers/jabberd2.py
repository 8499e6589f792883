"""jabberd2 as Debian ships it: four processes around a router, with stock settings except for folders and ports."""

from __future__ import annotations

import gzip
import re
import sqlite3
from pathlib import Path

from tests.lab.lab import Process
from tests.lab.servers.server import Server, Site

_STOCK = Path("/etc/jabberd2")
_SCHEMA = Path("/usr/share/doc/jabberd2/db-setup.sqlite.gz")
_PARTS = ("router", "sm", "s2s", "c2s")
_USERS = Path("/etc/jabberd2/router-users.xml")


def start(site: Site) -> Server:
    """Start all four and wait until clients and peers can connect. Its s2s listens at one address only."""
    folder = site.lab.directory(f"jabberd2-{site.domain}")
    router, client, s2s = site.lab.port(), site.lab.port(), site.s2s_port or site.lab.port()
    _database(folder)
    for part in _PARTS:
        (folder / f"{part}.xml").write_text(_configured(part, site, folder, router, {"c2s": client, "s2s": s2s}))
    processes = [_part(site, folder, "router")]
    site.lab.wait_for_port(processes[0], router)
    processes += [_part(site, folder, part) for part in _PARTS[1:]]
    site.lab.wait_for_port(processes[3], client)
    site.lab.wait_for_port(processes[2], s2s, address=site.s2s_addresses[0])
    return Server("jabberd2", site.domain, client, s2s, processes, folder / "s2s.log")


def _part(site: Site, folder: Path, part: str) -> Process:
    argv = [f"/usr/sbin/jabberd2-{part}", "-c", str(folder / f"{part}.xml")]
    return site.lab.start(f"jabberd2-{part}", argv, folder, _resolver(site) if part == "s2s" else {})


def _resolver(site: Site) -> dict[str, str]:
    """Return the environment that the lines of `s2sgw setup` give to jabberd2-s2s, or the lab's own."""
    printed = dict(re.findall(r"^\s+(NAMESERVERS|RES_OPTIONS)=(\S+)$", site.lines, re.MULTILINE))
    return printed or {"NAMESERVERS": "127.0.0.1", "RES_OPTIONS": f"port:{site.dns}"}


def _database(folder: Path) -> None:
    with sqlite3.connect(folder / "sqlite.db") as database:
        database.executescript(gzip.decompress(_SCHEMA.read_bytes()).decode())


def _configured(part: str, site: Site, folder: Path, router: int, ports: dict[str, int]) -> str:
    """Write the stock file of `part` with this site's folders and ports; return its path."""
    text = re.sub(r"<!--.*?-->", "", (_STOCK / f"{part}.xml").read_text(), flags=re.DOTALL)
    text = text.replace("/var/run/jabberd2/", f"{folder}/").replace("/var/log/jabberd2/", f"{folder}/")
    text = text.replace("/var/lib/jabberd2/", f"{folder}/")
    text = re.sub(r"(<id[^>]*>)localhost.localdomain(</id>)", lambda found: _hosts(found, site), text)
    text = text.replace("localhost.localdomain", site.domain)
    text = text.replace("<port>5347</port>", f"<port>{router}</port>").replace("0.0.0.0", "127.0.0.1")
    text = text.replace("register-enable='mu'", "register-enable='true'")
    if part == "s2s":
        text = text.replace("<ip>127.0.0.1</ip>\n    <port>5269", f"<ip>{site.s2s_addresses[0]}</ip>\n    <port>5269")
    if part == "s2s" and "::1" in site.s2s_addresses:
        text = text.replace("<lookup>", "<lookup>\n    <resolve-ipv6/>")
    if part == "s2s" and site.encrypted:
        text = text.replace("</local>", f"<pemfile>{site.certificate.combined()}</pemfile>\n  </local>")
    for name, stock in (("c2s", 5222), ("s2s", 5269)):
        if part == name:
            text = text.replace(f"<port>{stock}</port>", f"<port>{ports[name]}</port>")
    return text


def _hosts(found: re.Match[str], site: Site) -> str:
    """Return the stock element that names the host, once for each domain."""
    return "".join(found[1] + domain + found[2] for domain in site.domains)


class Routed:
    """jabberd2 without its s2s process: the gateway takes the router's default route. `secret` is the gateway's secret at the router."""

    def __init__(self, site: Site, router: int, secret: str) -> None:
        self.site, self.router = site, router
        self.folder = site.lab.directory(f"jabberd2-{site.domain}")
        self.client = site.lab.port()
        self.parts: dict[str, Process] = {}
        _database(self.folder)
        ports = {"c2s": self.client, "s2s": 0}
        for part in ("router", "sm", "c2s"):
            (self.folder / f"{part}.xml").write_text(_configured(part, site, self.folder, router, ports))
        self._admit(secret)

    def _admit(self, secret: str) -> None:
        """Write the lines of `s2sgw setup` to the file that they name."""
        user, acl = (re.findall(rf"^<{tag}.*?^</{tag}>", self.site.lines, re.MULTILINE | re.DOTALL) for tag in ("user", "acl"))
        users = _USERS.read_text().replace("</users>", user[0].replace("THE SECRET", secret) + "</users>")
        (self.folder / "router-users.xml").write_text(users)
        file = self.folder / "router.xml"
        text = re.sub("<users>[^<]*</users>", f"<users>{self.folder}/router-users.xml</users>", file.read_text())
        file.write_text(text.replace("</aci>", "".join(acl) + "</aci>"))

    def start(self, *parts: str) -> None:
        """Start these parts, or all of them."""
        for part in parts or ("router", "sm", "c2s"):
            self.parts[part] = _part(self.site, self.folder, part)
            if part == "router":
                self.site.lab.wait_for_port(self.parts[part], self.router)
            if part == "c2s":
                self.site.lab.wait_for_port(self.parts[part], self.client)

    def stop(self, *parts: str, kill: bool = False) -> None:
        for part in parts:
            if kill:
                self.parts[part].kill()
            self.site.lab.stop([self.parts.pop(part)])

    @property
    def server(self) -> Server:
        log = self.folder / "router.log"
        return Server("jabberd2", self.site.domain, self.client, 0, list(self.parts.values()), log)
