"""`make deb`: a Debian package of the wheel, with its libraries (requirements.lock, by hash) in an environment of its own.

    python packaging/debian/build.py WHEEL FOLDER

It is built for the python3 of this Debian release. Two builds of one commit are the same byte for byte.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent.parent
PYTHON = Path("/usr/bin/python3")
PREFIX = Path("opt/s2sgw")
COMMAND = "/opt/s2sgw/bin/s2sgw"
CONFIGURATION = "etc/s2sgw/s2sgw.toml"
SCRIPTS = ("s2sgw", "twistd")
DOCUMENTS = ("README.md", "CHANGELOG.md", "SECURITY.md")


def main(wheel: Path, folder: Path) -> Path:
    """Build the package of `wheel` in `folder`, which is emptied first, and return it."""
    shutil.rmtree(folder, ignore_errors=True)
    root = folder / "root"
    root.mkdir(parents=True)
    version = wheel.name.split("-")[1]
    environment(root / PREFIX, wheel)
    units(root)
    configuration(root)
    documents(root)
    completion(root)
    link = root / "usr/bin/s2sgw"
    link.parent.mkdir(parents=True)
    link.symlink_to(COMMAND)
    tidy(root)
    control(root, version)
    package = folder / f"s2sgw_{version}_{architecture()}.deb"
    run("dpkg-deb", "--build", "--root-owner-group", "-Zxz", "-z1", str(root), str(package))
    return package


def environment(prefix: Path, wheel: Path) -> None:
    """Make the environment at `prefix` from the lock and the wheel. It does not contain the folder where it was built."""
    run(str(PYTHON), "-m", "venv", "--without-pip", str(prefix))
    pip = [
        sys.executable, "-m", "pip", "--python", str(prefix / "bin/python3"), "install", "--quiet", "--disable-pip-version-check",
        "--no-compile", "--only-binary", ":all:",
    ]
    run(*pip, "--require-hashes", "--requirement", str(PROJECT / "requirements.lock"))
    run(*pip, "--no-deps", str(wheel))
    for entry in (prefix / "bin").iterdir():
        if entry.name in SCRIPTS:
            lines = entry.read_text("utf-8").splitlines(keepends=True)
            entry.write_text("".join(["#!/opt/s2sgw/bin/python3\n", *lines[1:]]), "utf-8")
        elif not entry.is_symlink():
            entry.unlink()
    settings = prefix / "pyvenv.cfg"
    settings.write_text(re.sub(r"(?m)^command = .*\n", "", settings.read_text("utf-8")), "utf-8")
    for record in prefix.rglob("*.dist-info/RECORD"):
        shutil.rmtree(record.parent / "__pycache__", ignore_errors=True)
        (record.parent / "direct_url.json").unlink(missing_ok=True)
        lines = [line for line in record.read_text("utf-8").splitlines(keepends=True) if not line.startswith("../../../bin/")]
        record.write_text("".join(line for line in lines if "direct_url.json" not in line), "utf-8")


def ask(prefix: Path, code: str, **variables: str) -> str:
    """Return the output of `code` in the environment's Python."""
    answer = subprocess.run(
        [prefix / "bin/python3", "-B", "-c", code], check=True, capture_output=True, text=True, env={**os.environ, **variables},
    )
    return answer.stdout


def units(root: Path) -> None:
    """Write the units of `s2sgw setup systemd`, with and without `--node`, to the folder for units of packages."""
    made = f"systemd_files({COMMAND!r}) | systemd_files({COMMAND!r}, node=True)"
    code = f"import json; from s2sgw.cli.setup_files import systemd_files; print(json.dumps({made}))"
    for path, text in json.loads(ask(root / PREFIX, code)).items():
        name = path.rpartition("/")[2]
        if path.startswith("/etc/systemd/system/"):
            write(root / "usr/lib/systemd/system" / name, text.replace(path, f"/usr/lib/systemd/system/{name}", 1))


def configuration(root: Path) -> None:
    """Write the configuration for the example domain; it is a conffile."""
    code = "from s2sgw.cli.setup_files import configuration; print(configuration(['example.org'], 'prosody'), end='')"
    write(root / CONFIGURATION, ask(root / PREFIX, code))
    (root / "etc/s2sgw/certs").mkdir()


def documents(root: Path) -> None:
    """Copy what a reader needs: README, changes, the pages of docs/, examples, alerts and the dashboard, the licence."""
    place = root / "usr/share/doc/s2sgw"
    place.mkdir(parents=True)
    for name in DOCUMENTS:
        shutil.copy(PROJECT / name, place)
    for folder, pattern in (
        ("docs", "*.md"), ("examples", "*.toml"), ("examples", "*.py"), ("examples/cluster", "*"),
        ("contrib", "*.md"), ("contrib/prometheus", "*.yml"), ("contrib/grafana", "*.json"),
    ):
        (place / folder).mkdir(parents=True, exist_ok=True)
        for path in sorted((PROJECT / folder).glob(pattern)):
            if not path.name.startswith("echo-"):  # files of `make run PORT=…`
                shutil.copy(path, place / folder)
    (place / "changelog.gz").write_bytes(gzip.compress((PROJECT / "CHANGELOG.md").read_bytes(), 9, mtime=0))
    licence = (PROJECT / "LICENSE").read_text("utf-8")
    note = "The libraries below /opt/s2sgw/lib have their own licences, in their *.dist-info folders.\n\n"
    write(place / "copyright", f"{note}s2sgw:\n\n{licence}")


def completion(root: Path) -> None:
    """Write the completion of bash, and the manual pages that this version has."""
    start = "from s2sgw.cli.main import main; main(prog_name='s2sgw'"
    write(root / "usr/share/bash-completion/completions/s2sgw", ask(root / PREFIX, f"{start})", _S2SGW_COMPLETE="bash_source"))
    for name, section in (("s2sgw", "1"), ("s2sgw.toml", "5")):
        try:
            page = ask(root / PREFIX, f"{start}, args=['setup', 'man', '--section', '{section}'])")
        except subprocess.CalledProcessError:
            continue
        place = root / f"usr/share/man/man{section}/{name}.{section}.gz"
        write(place, "")
        place.write_bytes(gzip.compress(page.encode(), 9, mtime=0))


def tidy(root: Path) -> None:
    """Remove files that Python created, and give every file one mode and one time."""
    for cache in [*root.rglob("__pycache__")]:
        shutil.rmtree(cache)
    epoch = int(os.environ["SOURCE_DATE_EPOCH"])
    for path in [root, *root.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        os.utime(path, (epoch, epoch), follow_symlinks=False)


def control(root: Path, version: str) -> None:
    """Write DEBIAN/: control, conffiles, checksums and the scripts of the maintainer."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    python = ask(root / PREFIX, "import sys; print('{}.{}'.format(*sys.version_info))").strip()
    major, minor = python.split(".")
    values = {
        "VERSION": version, "ARCHITECTURE": architecture(), "PYTHON": python, "NEXT_PYTHON": f"{major}.{int(minor) + 1}",
        "SIZE": str(sum(path.stat().st_size for path in files) // 1024),
    }
    place = root / "DEBIAN"
    write(place / "control", filled((HERE / "control.in").read_text("utf-8"), values))
    write(place / "conffiles", f"/{CONFIGURATION}\n")
    sums = (f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}  {path.relative_to(root)}\n" for path in files)
    write(place / "md5sums", "".join(sums))
    for name in ("postinst", "prerm", "postrm"):
        shutil.copy(HERE / name, place / name)
        (place / name).chmod(0o755)
    for path in parents_and_files(place):
        os.utime(path, (int(os.environ["SOURCE_DATE_EPOCH"]),) * 2)


def parents_and_files(place: Path) -> Iterator[Path]:
    """Yield the files of a folder, then the folder."""
    yield from place.iterdir()
    yield place


def filled(text: str, values: Mapping[str, str]) -> str:
    """Return `text` with each @NAME@ replaced."""
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def write(path: Path, text: str) -> None:
    """Write a file, readable by all. Its folders are made if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.parent.chmod(0o755)
    path.write_text(text, "utf-8")
    path.chmod(0o644)


def architecture() -> str:
    """Return Debian's name of this machine's architecture."""
    return subprocess.run(["dpkg", "--print-architecture"], check=True, capture_output=True, text=True).stdout.strip()


def run(*command: str) -> None:
    """Run a command; exit if it fails."""
    status = subprocess.run(command, check=False).returncode
    if status:
        raise SystemExit(f"{command[0]} ended with status {status}")


if __name__ == "__main__":
    sys.stdout.write(f"{main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve())}\n")
