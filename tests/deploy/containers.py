"""Commands of containers, run as processes of this machine."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

PYTHON = Path(sys.executable).parent


class Containers:
    """Starts commands after names, ports and folders in them were replaced by those of here.

    Parameters
    ----------
    here : dict
        What each stands for, by regular expression.
    folder : Path
        For logs.
    """

    def __init__(self, here, folder, stack):
        self.here, self.folder, self.stack = here, folder, stack

    def translated(self, text, environment=None):
        text = re.sub(r"\$\((\w+)\)", lambda found: environment[found[1]], text)
        for there, here in self.here.items():
            text = re.sub(there, str(here), text)
        return text

    def command(self, words, environment=None):
        environment = {name: self.translated(value) for name, value in (environment or {}).items()}
        path = f"{PYTHON}{os.pathsep}{os.environ['PATH']}"
        return [self.translated(word, environment) for word in words], {
            **os.environ, "PATH": path, **environment,
        }  # fmt: skip

    def start(self, name, words, environment=None):
        """Start what runs until the end of the test."""
        words, environment = self.command(words, environment)
        log = self.stack.enter_context((self.folder / f"{name}.log").open("w"))
        process = subprocess.Popen(words, env=environment, stdout=log, stderr=log)
        self.stack.callback(process.wait, 30)
        self.stack.callback(process.send_signal, signal.SIGTERM)

    def run(self, words, environment=None):
        """Run a command to its end."""
        words, environment = self.command(words, environment)
        return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=90)

    def wait_until_healthy(self, name, words, seconds=60):
        deadline = time.monotonic() + seconds
        while (check := self.run(words)).returncode != 0:
            if time.monotonic() > deadline:
                log = (self.folder / f"{name}.log").read_text()
                raise TimeoutError(f"{name} is not healthy: {check.stderr} {log}")
            time.sleep(0.2)


@contextmanager
def containers(here, folder):
    with ExitStack() as stack:
        yield Containers(here, folder, stack)
