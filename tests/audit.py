"""Asks whether any pinned dependency has a published weakness (pip-audit with the OSV database): `make audit`.

Ends with 1 if one has. Where the database cannot be reached it says so and ends with 0.
"""

import re
import socket
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
DATABASE = "api.osv.dev"
TOOL = "pip-audit==2.10.1"  # in an environment of its own: what it brings along is nothing of ours
FOLDER = ROOT / ".venv" / "audit"


def pins() -> list[str]:
    """Every `name==version` of the project."""
    text = "\n".join((ROOT / name).read_text() for name in ("requirements.txt", "requirements-dev.txt", "constraints.txt"))
    return re.findall(r"^[\w.-]+==[\w.]+", text, re.MULTILINE)


def main() -> int:
    try:
        socket.create_connection((DATABASE, 443), timeout=5).close()
    except OSError:
        print(f"The audit of the dependencies is left out: {DATABASE} cannot be reached from here.")
        return 0
    if not FOLDER.exists():
        venv.create(FOLDER, with_pip=True)
    python = str(FOLDER / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", TOOL], check=True)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(pins()))
        file.flush()
        command = [python, "-m", "pip_audit", "--vulnerability-service=osv", "--no-deps", "--disable-pip", "-r", file.name]
        return subprocess.run(command, timeout=300).returncode


if __name__ == "__main__":
    sys.exit(main())
