"""ejabberd, by the steps of docs/install.md and docs/ejabberd.md."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial

from tests.install.evening import DOMAIN, ROOMS, Evening
from tests.install.steps import Step, section, steps
from tests.lab.certificates import Certificate
from tests.lab.gateway import PROJECT
from tests.lab.servers.server import PASSWORD

_FILE = "/etc/ejabberd/ejabberd.yml"


class EjabberdEvening(Evening):
    """Debian's ejabberd, with its own configuration."""

    def scenarios(self) -> Iterator[tuple[str, Callable[[], None]]]:
        """Yield the scenarios."""
        yield "an ejabberd for example.org federates without the gateway", self._before
        install, page = ((PROJECT / "docs" / name).read_text("utf-8") for name in ("install.md", "ejabberd.md"))
        yield "docs/install.md: 1", partial(self._type, steps(section(install, "1."))[:1])
        yield "docs/install.md: 2", partial(self._type, self._for_ejabberd(steps(section(install, "2."))))
        yield "docs/ejabberd.md: 3", partial(self._type, steps(section(page, "3.")))
        yield "docs/ejabberd.md: 3, what is edited by hand", self._edit
        yield "docs/ejabberd.md: 4", partial(self._type, steps(section(page, "4.")))
        yield "docs/install.md: 4", partial(self._type, steps(section(install, "4.")))
        yield "messages and rooms pass through the gateway, in both directions by certificate", self._through
        yield "docs/install.md: 5", partial(self._type, steps(section(install, "5.")))
        yield "docs/ejabberd.md: to go back", partial(self._type, steps(section(page, "To go back")))
        yield "messages pass without the gateway again", self._talk

    def _for_ejabberd(self, blocks: list[Step]) -> list[Step]:
        """Write the server's name as the page says."""
        for block in blocks:
            block.commands = [command.replace("--server prosody", "--server ejabberd") for command in block.commands]
        return blocks

    def _server(self, certificate: Certificate) -> None:
        machine = self._machine
        machine.write("/etc/ejabberd/ejabberd.pem", certificate.chain.read_text() + certificate.key.read_text(), 0o640)
        text = machine.run(f"cat {_FILE}")
        text = re.sub(r"(?ms)^hosts:\n(  - .*?\n)+", f"hosts:\n  - {DOMAIN}\n", text)
        text = text.replace("    starttls_required: true\n", "", 1).replace("  mod_muc:\n", f"  mod_muc:\n    host: {ROOMS}\n", 1)
        machine.run(f"cat > {_FILE}; chgrp ejabberd /etc/ejabberd/ejabberd.pem", text=text)
        machine.run("systemctl start ejabberd", seconds=180.0)
        machine.wait(f"ejabberdctl register juliet {DOMAIN} {PASSWORD}", 60.0)

    def _edit(self) -> None:
        """Delete and add lines as the page says."""
        text = self._machine.run(f"cat {_FILE}")
        text = re.sub(r"(?m)^  -\n(?:    .*\n)*?    module: ejabberd_s2s_in\n(?:    .*\n)*", "", text)
        text = re.sub(r"(?m)^(s2s_use_starttls|ca_file|s2s_cafile|s2s_max_retry_delay):.*\n", "", text)
        self._machine.run(f"cat > {_FILE}", text=f"{text}\ninclude_config_file: /etc/ejabberd/s2sgw.yml\n")
