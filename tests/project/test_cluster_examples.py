"""examples/cluster: the files of an engine and its nodes fit together. tests/integration/test_cluster_examples.py starts them."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

from s2sgw.cli.setup_files import systemd_files
from s2sgw.config import parse
from tests.project.source_tree import ROOT

FOLDER = ROOT / "examples" / "cluster"
NODES = "abc"
#: The parts that differ in the files of two nodes.
OWN = re.compile(r"(?<=/)[abc](?=\.toml|\"|/)|(?<=node )[abc](?= of)|(?<=node = \")[abc]|192\.0\.2\.1[123](?=\"\n|\" {2,})")


class ClusterExampleTests(SynchronousTestCase):
    """Units, configurations, and containers."""

    def test_nodes(self) -> None:
        """Each file is a valid configuration. They differ in the name and the address of the node alone."""
        folder = Path(self.mktemp()).absolute()
        for name in ("certs", "shared"):
            (folder / name).mkdir(parents=True)
        for name in ("shared/secret", "shared/backend-ca.pem", "shared/backend-ca.key", "engine-ca.pem", "engine.credentials"):
            (folder / name).write_text("s2sgw:secret\n")
            (folder / name).chmod(0o600)
        texts = {name: (FOLDER / f"{name}.toml").read_text("utf-8") for name in NODES}
        for name, text in texts.items():
            config = parse(text.replace("/var/lib/s2sgw", str(folder)), folder / f"{name}.toml", system_nameservers=("127.0.0.1",))
            self.assertEqual((name, f"tcp:5271:interface=192.0.2.1{NODES.index(name) + 1}"), (config.cluster.node, config.cluster.listen))
            self.assertIn(f"192.0.2.1{NODES.index(name) + 1}", str(config.cluster.members))
        self.assertEqual(1, len({OWN.sub("…", text) for text in texts.values()}))

    def test_engine(self) -> None:
        """The nodes connect to the addresses and with the user of the servers."""
        servers = re.findall(r'"nats://(\S+?):6222"', (FOLDER / "nats.conf").read_text("utf-8"))
        cluster = tomllib.loads((FOLDER / "a.toml").read_text("utf-8"))["cluster"]
        self.assertEqual(3, len(servers))
        self.assertEqual([f"nats://{server}:4222" for server in servers], cluster["engine"])
        self.assertIn("user: s2sgw,", (FOLDER / "nats.conf").read_text("utf-8"))
        self.assertIn("s2sgw:%s", (FOLDER / "secrets.sh").read_text("utf-8"))

    def test_units(self) -> None:
        """systemd knows each setting of the units."""
        analyze = shutil.which("systemd-analyze")
        if analyze is None:
            raise SkipTest("systemd-analyze is not here")
        folder = Path(self.mktemp())
        folder.mkdir()
        node = systemd_files("/usr/bin/true", node=True)["/etc/systemd/system/s2sgw@.service"]
        (folder / "s2sgw@a.service").write_text(node)
        engine = (FOLDER / "nats.service").read_text("utf-8")
        (folder / "nats.service").write_text(engine.replace("/usr/local/bin/nats-server", "/usr/bin/true"))
        for name in ("s2sgw@a.service", "nats.service"):
            found = subprocess.run([analyze, "verify", "--man=no", folder / name], capture_output=True, text=True, check=False)
            about = [line for line in found.stderr.splitlines() if name in line]
            self.assertEqual([], about)
        self.assertIn("After=network-online.target nats.service\n", node)

    def test_containers(self) -> None:
        """Each container has the files of its server or node, at the paths and the address that these name."""
        text = (FOLDER / "compose.yaml").read_text("utf-8")
        services = dict(re.findall(r"(?ms)^  (n[123]|[abc]):\n(.*?)(?=^  \w+:\n|\Z)", text.partition("\nservices:\n")[2]))
        self.assertEqual({"n1", "n2", "n3", *NODES}, set(services))
        secrets = (FOLDER / "secrets.sh").read_text("utf-8")
        for name, service in services.items():
            (address,) = re.findall(r"ipv4_address: (\S+?)\}", service)
            mounts = dict(reversed(each.removesuffix(":ro").split(":")) for each in re.findall(r'"([^"]+:/[^"]+)"', service))
            if name in NODES:
                config = (FOLDER / f"{name}.toml").read_text("utf-8")
                self.assertEqual(f"./{name}.toml", mounts["/etc/s2sgw/s2sgw.toml"])
                wanted = {f"/etc/s2sgw/{each}" for each in ("engine-ca.pem", "engine.credentials", "certs", "shared")}
                self.assertIn(f'interface={address}"', config)
            else:
                config = (FOLDER / "nats.conf").read_text("utf-8")
                self.assertIn(f"env_file: secrets/{name}/nats.env\n", service)
                wanted = {*re.findall(r'"(/etc/nats/\S+)"', config), "/etc/nats/nats.conf", *re.findall(r'store_dir: "(\S+)"', config)}
                self.assertIn(f'"nats://{address}:6222"', config)
            self.assertEqual(set(), wanted - set(mounts), name)
            for source in mounts.values():
                if source.startswith("./secrets/"):
                    self.assertIn(source.rpartition("/")[2], secrets)
                elif source.endswith((".toml", ".conf")):
                    self.assertTrue((FOLDER / source).is_file(), source)
