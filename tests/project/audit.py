"""`make audit`: print the findings of pip-audit. A package without a result is not known to be good, and counts as a failure."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def report(found: dict[str, list[dict[str, object]]]) -> tuple[list[str], bool]:
    """Return the results in pip-audit's JSON, one a line, and whether every package has a result and none is vulnerable."""
    lines = []
    unknown = [each for each in found["dependencies"] if "skip_reason" in each]
    for each in found["dependencies"]:
        vulnerabilities = each.get("vulns", [])
        assert isinstance(vulnerabilities, list)
        lines += [f"{each['name']} {each['version']}: {one['id']}, fixed in {', '.join(one['fix_versions']) or 'no release'}" for one in vulnerabilities]
    vulnerable = len(lines)
    if unknown:
        lines.append(
            f"NOT AUDITED: {len(unknown)} of {len(found['dependencies'])} packages. The package index in use gives no advisories, or cannot be reached: "
            "run this on a machine that reaches the public index"
        )
    if not lines:
        lines.append(f"{len(found['dependencies'])} packages, no known vulnerabilities")
    return lines, not unknown and not vulnerable


if __name__ == "__main__":
    text = Path(sys.argv[1]).read_text(encoding="utf-8")
    told, good = report(json.loads(text)) if text else (["NOT AUDITED: pip-audit gave no answer"], False)
    print("\n".join(told))
    sys.exit(not good)
