"""Tests of the files that `s2sgw setup config` and `setup systemd` print: they are valid and consistent."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from unittest import SkipTest

from click.testing import CliRunner
from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cli import setup_files
from s2sgw.cli.main import main
from s2sgw.config import load
from s2sgw.net.endpoint_strings import EndpointString
from tests.support.certificates import leaf_for


class SetupConfigTests(SynchronousTestCase):
    def test_good_for_every_server(self) -> None:
        """The configuration loads unchanged, once the certificates are there."""
        folder = Path(self.mktemp())
        (folder / "certs").mkdir(parents=True)
        (folder / "certs" / "example.org.crt").write_bytes(leaf_for("example.org").pem_chain)
        key = folder / "certs" / "example.org.key"
        key.write_bytes(leaf_for("example.org").key_pem)
        key.chmod(0o600)
        for server, view in (("prosody", True), ("ejabberd", True), ("jabberd2", True), ("openfire", False)):
            result = CliRunner().invoke(main, ["setup", "config", "--domain", "EXAMPLE.org", "--domain", "b\xfccher.example", "--server", server])
            self.assertEqual(0, result.exit_code, result.output)
            text = result.output.replace('state = "/var/lib/s2sgw"', 'state = "state"')
            (folder / "s2sgw.toml").write_text(text, "utf-8")
            config = load(folder / "s2sgw.toml", system_nameservers=("192.0.2.53",))
            self.assertEqual(["example.org", "b\xfccher.example"], [domain.text for domain in config.gateway.domains])
            self.assertEqual(view, config.backends[0].dns_view is not None)

    def test_without_systemd(self) -> None:
        """The gateway itself opens the ports that the socket units would hold. Nothing else differs."""
        texts = []
        for option in ([], ["--without-systemd"]):
            result = CliRunner().invoke(main, ["setup", "config", "--domain", "example.org", *option])
            self.assertEqual(0, result.exit_code, result.output)
            texts.append(tomllib.loads(result.output))
        held, own = texts
        self.assertEqual(["tcp:5269", "tcp:5270"], [each.pop("endpoint") for each in own["listen"]])
        self.assertEqual(2, len([each.pop("endpoint") for each in held["listen"]]))
        self.assertEqual(held, own)

    def test_no_domain(self) -> None:
        """A text that is not a domain is refused."""
        result = CliRunner().invoke(main, ["setup", "config", "--domain", "a b"])
        self.assertEqual(2, result.exit_code)


class SetupSystemdTests(SynchronousTestCase):
    def test_endpoints_and_sockets_fit(self) -> None:
        """Each systemd endpoint of the configuration is the FileDescriptorName of one socket unit, and the service requires them all."""
        texts = setup_files.systemd_files("/opt/s2sgw/bin/s2sgw")
        listen = tomllib.loads(setup_files.configuration(["example.org"], "prosody"))["listen"]
        names = {EndpointString.parse(each["endpoint"]).socket_name for each in listen}
        sockets = {path.rpartition("/")[2]: text for path, text in texts.items() if path.endswith(".socket")}
        self.assertEqual(names, {match for text in sockets.values() for match in re.findall("^FileDescriptorName=(.*)$", text, re.M)})
        service = texts["/etc/systemd/system/s2sgw.service"]
        (required,) = re.findall("^Requires=(.*)$", service, re.M)
        self.assertEqual(set(sockets), set(required.split()))
        self.assertIn("ExecStart=/opt/s2sgw/bin/s2sgw run --config /etc/s2sgw/s2sgw.toml\n", service)
        self.assertNotIn("@", service.replace("@system-service", "").replace("@privileged", "").replace("@resources", ""))

    def test_node(self) -> None:
        """A node has its own configuration and folders, no sockets of systemd, more time to start and to stop, and the same protection."""
        (alone, node) = (
            setup_files.systemd_files("/opt/s2sgw/bin/s2sgw", node)[f"/etc/systemd/system/s2sgw{'@' * node}.service"] for node in (False, True)
        )
        self.assertIn("ExecStart=/opt/s2sgw/bin/s2sgw run --config /etc/s2sgw/%i.toml\n", node)
        for line in ("StateDirectory=s2sgw/%i", "RuntimeDirectory=s2sgw/%i", "TimeoutStartSec=180", "TimeoutStopSec=150"):
            self.assertIn(f"{line}\n", node)
        self.assertNotIn(".socket", node)
        settings = [
            [line for line in text.splitlines() if re.match("[A-Za-z]+=", line) and not re.match(
                "Exec|Timeout|StateDirectory=|RuntimeDirectory=|Description|After|Requires|Also", line)]
            for text in (alone, node)
        ]
        self.assertEqual(*settings)

    def test_node_installed(self) -> None:
        """`--node` writes the unit of the nodes and the user, and says how to start one."""
        root = Path(self.mktemp())
        arguments = ["setup", "systemd", "--node", "--program", "/opt/s2sgw/bin/s2sgw", "--install", "--root", str(root)]
        output = CliRunner().invoke(main, arguments).output
        found = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
        self.assertEqual(["etc/systemd/system/s2sgw@.service", "etc/sysusers.d/s2sgw.conf"], found)
        self.assertIn("s2sgw check --config /etc/s2sgw/a.toml && systemctl enable --now s2sgw@a\n", output)

    def test_callbacks_of_tls(self) -> None:
        """cffi needs memory that is writable and executable for the callbacks of OpenSSL."""
        service = setup_files.systemd_files("/opt/s2sgw/bin/s2sgw")["/etc/systemd/system/s2sgw.service"]
        self.assertNotRegex(service, "(?m)^MemoryDenyWriteExecute=")

    def test_exposure(self) -> None:
        """The unit's exposure by systemd is at most 2.0 of 10, if systemd is available."""
        analyze = shutil.which("systemd-analyze")
        if analyze is None:
            raise SkipTest("systemd-analyze is not here")
        unit = Path(self.mktemp()) / "s2sgw.service"
        unit.parent.mkdir()
        unit.write_text(setup_files.systemd_files("/usr/bin/true")["/etc/systemd/system/s2sgw.service"])
        answer = subprocess.run([analyze, "security", "--offline=true", unit], capture_output=True, text=True, check=False).stdout
        found = re.search(r"Overall exposure level for s2sgw.service: (\S+)", answer)
        if found is None:
            raise SkipTest("this systemd-analyze cannot judge a file")
        self.assertLessEqual(float(found[1]), 2.0, answer)

    def test_printed(self) -> None:
        """Every file begins with its path."""
        output = CliRunner().invoke(main, ["setup", "systemd", "--program", "/opt/s2sgw/bin/s2sgw"]).output
        for path, _mode in setup_files.SYSTEMD_FILES.values():
            self.assertIn(f"# {path}\n", output)

    def test_installed_once(self) -> None:
        """Files are written, are written again without a change, and never overwrite another's file."""
        root = Path(self.mktemp())
        arguments = ["setup", "systemd", "--program", "/opt/s2sgw/bin/s2sgw", "--install", "--root", str(root)]
        for _ in range(2):
            result = CliRunner().invoke(main, arguments)
            self.assertEqual(0, result.exit_code, result.output)
        unit = root / "etc/systemd/system/s2sgw.service"
        self.assertEqual(0o644, unit.stat().st_mode & 0o777)
        unit.write_text("mine")
        (root / "etc/sysusers.d/s2sgw.conf").unlink()
        result = CliRunner().invoke(main, arguments)
        self.assertEqual(2, result.exit_code)
        self.assertEqual("mine", unit.read_text())
        self.assertFalse((root / "etc/sysusers.d/s2sgw.conf").exists())
