"""The real app as its own process, for tests and benchmarks. The standard library only."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class Port:
    """Of the loopback, for a server that is told to listen on it, more than once too. While this is kept Linux gives `number` to
    nobody who asks for any port; elsewhere two cannot have one, and it is free for the moment only."""

    def __init__(self) -> None:
        self._held = socket.socket()
        if sys.platform == "linux":
            self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.bind(("127.0.0.1", 0))
        self.number: int = self._held.getsockname()[1]
        if sys.platform != "linux":
            self._held.close()


class Server:
    """The real `streamlit run app.py` on a port and a store of its own."""

    def __init__(self, folder: Path, environment: dict[str, str], program: str = "streamlit"):
        """`program`: the module that runs it."""
        self.store = folder / "runs"
        self.log = folder / "server.log"
        self._program, self._environment = program, {**os.environ, "GRADVIZ_STORE": str(self.store), **environment}
        self._port = Port()
        self.port = self._port.number
        base = environment.get("STREAMLIT_SERVER_BASE_URL_PATH", "")
        self.url = f"http://127.0.0.1:{self.port}" + f"/{base}" * bool(base)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, seconds: float = 60) -> float:
        """Starts on the same port and store as before and returns how many seconds that took. Raises RuntimeError with the end
        of the log if it is not healthy in time."""
        options = ["--server.port", str(self.port), "--server.address", "127.0.0.1", "--server.headless", "true"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self._program, "run", "app.py", *options],
                cwd=ROOT, env=self._environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        began = time.monotonic()
        while not self.healthy():
            if self.process.poll() is not None or time.monotonic() > began + seconds:
                self.kill()
                raise RuntimeError(f"the server did not start:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.05)
        return time.monotonic() - began

    def healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/_stcore/health", timeout=2) as answer:
                return answer.status == 200
        except OSError:
            return False

    def stop(self, signal_number: int = signal.SIGTERM, seconds: float = 10) -> float:
        """Asks the server to end and returns how many seconds it took. Raises subprocess.TimeoutExpired if it does not."""
        started = time.monotonic()
        self.process.send_signal(signal_number)
        self.process.wait(seconds)
        return time.monotonic() - started

    def kill(self) -> None:
        """kill -9, as a power cut would; the workers of the server go with it."""
        if self.process is not None:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it had ended already
            self.process.wait()

    def restart(self) -> None:
        self.kill()
        self.start()
