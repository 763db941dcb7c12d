"""Asks whether any pinned dependency has a published weakness (pip-audit with the OSV database): `make audit`.

Ends with 1 if one has. Where the question could not be put, the last line begins with NOT AUDITED and says why, and it ends
with 0: a network that is down is no fault of what is tested. The tests repeat that line at their end (tests/conftest.py).
"""

import json
import re
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
DATABASE = "https://api.osv.dev"
TOOL = "pip-audit==2.10.1"  # in an environment of its own: what it brings along is nothing of ours
FOLDER = ROOT / ".venv" / "audit"
SAID = ROOT / ".venv" / "audit.txt"  # what the last audit said, one line


def pins() -> list[str]:
    """Every `name==version` of the project, what the container is built with included."""
    files = ("requirements.txt", "requirements-dev.txt", "requirements-ray.txt", "constraints.txt", "requirements-build.lock")
    text = "\n".join((ROOT / name).read_text(encoding="utf-8") for name in files)
    return re.findall(r"^[\w.-]+==[\w.]+", text, re.MULTILINE)


def why_unreachable(address: str = DATABASE) -> str:
    """Why the database cannot be asked, through the proxy that the environment names if any; '' if it can."""
    try:
        urllib.request.urlopen(address, timeout=5).close()
    except urllib.error.HTTPError as error:  # somebody answers, if not under this address
        return "" if error.code < 407 or error.code == 501 else f"{address} answers with {error}"
    except OSError as error:
        return f"{address} cannot be reached from here ({' '.join(str(getattr(error, 'reason', error)).split())})"
    return ""


def ask() -> tuple[str, int]:
    """(what there is to say, exit code)"""
    if reason := why_unreachable():
        return f"NOT AUDITED: {reason}.", 0
    if not FOLDER.exists():
        venv.create(FOLDER, with_pip=True)
    python = str(FOLDER / "bin" / "python")
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(pins()))
        file.flush()
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", TOOL]
        audit = [python, "-m", "pip_audit", "--vulnerability-service=osv", "--no-deps", "--disable-pip", "-f", "json",
                 "-r", file.name]  # fmt: skip
        try:
            subprocess.run(install, check=True, timeout=300)
            output = subprocess.run(audit, stdout=subprocess.PIPE, text=True, timeout=300).stdout
        except subprocess.SubprocessError as error:
            return f"NOT AUDITED: {TOOL} could not be had or did not end ({type(error).__name__}).", 0
    return verdict(output)


def verdict(output: str) -> tuple[str, int]:
    """What pip-audit's JSON says; an answer that is none, or leaves packages out, is not taken for a good one."""
    try:
        packages = json.loads(output)["dependencies"]
        weak = [f"{each['name']} {each['version']}: {', '.join(found['id'] for found in each['vulns'])}"
                for each in packages if each.get("vulns")]  # fmt: skip
        skipped = [each["name"] for each in packages if "skip_reason" in each]
    except (ValueError, KeyError, TypeError):
        return "NOT AUDITED: pip-audit gave no answer; what it said stands above.", 0
    if weak:
        return "AUDITED, and weak: " + "; ".join(weak) + ".", 1
    if skipped or not packages:
        return f"NOT AUDITED: {', '.join(skipped) or 'everything'}.", 0
    return f"Audited: {len(packages)} packages, no known weakness.", 0


def main() -> int:
    text, code = ask()
    SAID.parent.mkdir(exist_ok=True)
    SAID.write_text(text + "\n", encoding="utf-8")
    print(text, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
