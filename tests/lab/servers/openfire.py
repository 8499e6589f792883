"""Openfire, behind the gateway or outside, from a distribution that is unpacked in the folder that `OPENFIRE` names.

There is no package of it. The folder is copied for each server and is never changed. The database is made beforehand, so that ports
and other properties are set at the first start. `openfire.xml` then sets up the server without its web console.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, load_pem_private_key, pkcs12

from tests.lab.lab import LabError
from tests.lab.servers.server import PASSWORD, Server, Site

FOLDER = Path(os.environ["OPENFIRE"]).absolute() if os.environ.get("OPENFIRE") else None
#: Seconds for its start, which sets it up.
_SECONDS = 120.0
#: The password of its original key stores.
_STORE = "changeit"
_CONFIG = """\
<?xml version="1.0" encoding="UTF-8"?>
<jive>
  <adminConsole><port>-1</port><securePort>-1</securePort><interface>127.0.0.1</interface></adminConsole>
  <network><interface>127.0.0.1</interface></network>
  <locale>en</locale>
  <connectionProvider><className>org.jivesoftware.database.EmbeddedConnectionProvider</className></connectionProvider>
  <autosetup>
    <run>true</run>
    <locale>en</locale>
    <xmpp><auth><anonymous>false</anonymous></auth><domain>{domain}</domain><fqdn>{domain}</fqdn></xmpp>
    <database><mode>embedded</mode></database>
    <authprovider><mode>default</mode></authprovider>
    <admin><email>admin@{domain}</email><password>{password}</password></admin>
    <users>{users}</users>
  </autosetup>
</jive>
"""
#: Make the tables, and enter the properties: java Provision DATABASE SCHEMA NAME=VALUE…
_PROVISION = """\
import java.nio.file.*;
import java.sql.*;

public class Provision {
    public static void main(String[] given) throws Exception {
        try (Connection database = DriverManager.getConnection("jdbc:hsqldb:file:" + given[0], "sa", "")) {
            StringBuilder statement = new StringBuilder();
            for (String line : Files.readAllLines(Path.of(given[1]))) {
                if (line.isBlank() || line.startsWith("//") || line.startsWith("--")) continue;
                statement.append(line).append('\\n');
                if (line.stripTrailing().endsWith(";")) {
                    database.createStatement().execute(statement.toString().strip().replaceAll(";$", ""));
                    statement.setLength(0);
                }
            }
            for (int at = 2; at < given.length; at++) {
                String[] property = given[at].split("=", 2);
                PreparedStatement insert = database.prepareStatement("INSERT INTO ofProperty (name, propValue, encrypted) VALUES (?, ?, 0)");
                insert.setString(1, property[0]);
                insert.setString(2, property[1]);
                insert.execute();
            }
            database.createStatement().execute("SHUTDOWN");
        }
    }
}
"""


def unavailable() -> str:
    """Return why Openfire is not available here, or ""."""
    if FOLDER is None:
        return "no Openfire: give the folder of an unpacked distribution (make interop OPENFIRE=FOLDER)"
    if not (FOLDER / "lib" / "startup.jar").exists():
        return f"no Openfire: {FOLDER} has no lib/startup.jar"
    missing = [name for name in ("java", "javac", "keytool") if shutil.which(name) is None]
    return f"no Openfire: {', '.join(missing)} not found; a JDK is needed" if missing else ""


def start(site: Site, overrides: Mapping[str, int] | None = None) -> Server:
    """Start it and wait until it listens. `overrides` are the ports of peers on 127.0.0.1. Behind the gateway `site.lines` has them."""
    assert FOLDER is not None
    folder = site.lab.directory(f"openfire-{site.domain}")
    home = folder / "home"
    shutil.copytree(FOLDER, home, ignore=shutil.ignore_patterns("embedded-db", "logs"))
    client_port, s2s_port = site.lab.port(), site.s2s_port or site.lab.port()
    (home / "conf").mkdir(exist_ok=True)
    users = "".join(f"<user{number}><username>{user}</username><password>{PASSWORD}</password></user{number}>" for number, user in enumerate(site.users, 1))
    (home / "conf" / "openfire.xml").write_text(_CONFIG.format(domain=site.domain, password=PASSWORD, users=users))
    _provide(home, folder, {**_properties(site, client_port, s2s_port, overrides or {}), **_printed(site.lines)})
    _stores(home, folder, site)
    command = ["java", "-Xmx384m", f"-DopenfireHome={home}", f"-Dopenfire.lib.dir={home}/lib", "-jar", str(home / "lib" / "startup.jar")]
    process = site.lab.start("openfire", command, folder, {"HOME": str(folder)})
    for port in (client_port, s2s_port):
        site.lab.wait_for_port(process, port, _SECONDS)
    return Server("openfire", site.domain, client_port, s2s_port, [process], home / "logs" / "openfire.log")


def _properties(site: Site, client_port: int, s2s_port: int, overrides: Mapping[str, int]) -> dict[str, str]:
    """Return properties with the lab's ports, and without anything that uses the network."""
    found = {
        "xmpp.socket.plain.port": str(client_port), "xmpp.socket.ssl.active": "false", "xmpp.server.socket.port": str(s2s_port),
        "xmpp.server.socket.ssl.active": "false", "xmpp.component.ssl.active": "false", "httpbind.enabled": "false", "xmpp.proxy.enabled": "false",
        "update.service-enabled": "false", "xmpp.domain": site.domain,
    }
    if overrides:
        found["dnsutil.dnsOverride"] = ",".join(f"{{{domain},127.0.0.1:{port}}}" for domain, port in overrides.items())
    return found


def _printed(lines: str) -> dict[str, str]:
    """Return the properties that `s2sgw setup openfire` prints."""
    return dict(re.findall(r"^([a-zA-Z][\w.]+) = (.*)$", lines, re.MULTILINE))


def _provide(home: Path, folder: Path, properties: Mapping[str, str]) -> None:
    (home / "embedded-db").mkdir()
    source = folder / "Provision.java"
    source.write_text(_PROVISION)
    schema = home / "resources" / "database" / "openfire_hsqldb.sql"
    given = [f"{name}={value}" for name, value in properties.items()]
    _run(["java", "-cp", f"{home}/lib/*", str(source), str(home / "embedded-db" / "openfire"), str(schema), *given])


def _stores(home: Path, folder: Path, site: Site) -> None:
    """Give it the lab's certificate. Let it trust only `site.anchors`, or the CA that `s2sgw setup` names."""
    named = re.search(r"-importcert .*-file (\S+)", site.lines)
    anchors = Path(named[1]) if named else site.anchors
    security = home / "resources" / "security"
    chain = x509.load_pem_x509_certificates(site.certificate.chain.read_bytes())
    key = load_pem_private_key(site.certificate.key.read_bytes(), None)
    both = folder / "certificate.p12"
    encryption = BestAvailableEncryption(_STORE.encode())
    both.write_bytes(pkcs12.serialize_key_and_certificates(site.domain.encode(), key, chain[0], chain[1:], encryption))  # type: ignore[arg-type]
    for name in ("keystore", "truststore"):
        (security / name).unlink(missing_ok=True)
    store = ["-storetype", "JKS", "-storepass", _STORE]
    _run(["keytool", "-importcert", "-noprompt", "-alias", "s2sgw", "-file", str(anchors), "-keystore", str(security / "truststore"), *store])
    _run([
        "keytool", "-importkeystore", "-noprompt", "-srckeystore", str(both), "-srcstoretype", "PKCS12", "-srcstorepass", _STORE,
        "-destkeystore", str(security / "keystore"), "-deststoretype", "JKS", "-deststorepass", _STORE,
    ])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise LabError(f"{command[0]}: status {done.returncode}\n{done.stdout}{done.stderr}")
