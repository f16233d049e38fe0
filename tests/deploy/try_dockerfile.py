"""Run the steps of the Dockerfile in clean Debian roots, where there is no container engine.

    python -m tests.deploy.try_dockerfile   # as root, on Debian with debootstrap

Each stage begins as a fresh Debian 12 with its own Python, which stands for the base image (whose
Python is newer, and its own). ENV, WORKDIR, COPY, RUN and USER do there what they say. At the end
the image's user gets a root that is read-only but for /tmp, as on Kubernetes, prints what CMD
prints, and simulates and fits tasks. Not tried: the base image itself, and building by layers.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from string import Template

from dockerfile_parse import DockerfileParser

CHECKOUT = Path(__file__).parents[2]
DOCKERFILE = CHECKOUT / "deploy" / "kubernetes" / "Dockerfile"
BASE = "python3,python3-venv,ca-certificates"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
FIT = """
import dask_kubernetes, obstore  # of the extras
import daskmlr
tasks = daskmlr.simulate(
    "/tmp/tasks", n_components=2, n_features=3, task_groups=[(2000, 6)], random_state=0
)
print(daskmlr.MixedLinearRegression(2).fit(tasks).coef_)
"""
MOUNTS = "mount -t proc proc {root}/proc; mount --bind /dev {root}/dev"
READ_ONLY = """
mount --bind {root} {root}; mount -o remount,ro,bind {root}; mount -t tmpfs tmpfs {root}/tmp
"""


class Stage:
    """A root, and what the instructions so far said of it."""

    def __init__(self, root):
        self.root, self.folder, self.user = root, "/", "0"
        self.environment = {"PATH": PATH} | {
            name: value for name, value in os.environ.items() if name.startswith("PIP_")
        }

    def run(self, *command, before=""):
        """Run `command` inside, with /proc and /dev, after the mounts of `before`."""
        inside = f"cd {self.folder} && exec {shlex.join(command)}"
        settings = [f"{name}={value}" for name, value in self.environment.items()]
        chroot = ["chroot", f"--userspec={self.user}:{self.user}", self.root, "sh", "-ec", inside]
        outside = (
            f"{before}\n{MOUNTS}\nexec {shlex.join(['env', '-i', *settings, *map(str, chroot)])}"
        )
        script = outside.replace("{root}", str(self.root))
        subprocess.run(["unshare", "--mount", "--pid", "--fork", "sh", "-ec", script], check=True)

    def do(self, instruction, value, stages):
        if instruction == "WORKDIR":
            self.folder = value
            (self.root / value.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif instruction == "ENV":
            for pair in shlex.split(value):
                name, said = pair.split("=", 1)
                self.environment[name] = Template(said).substitute(self.environment)
        elif instruction == "USER":
            self.user = value
        elif instruction == "RUN":
            self.run("sh", "-ec", value)
        elif instruction == "COPY":
            self.copy(value.split(), stages)
        else:
            raise NotImplementedError(f"{instruction} {value}")

    def copy(self, words, stages):
        source = CHECKOUT
        if words[0].startswith("--from="):
            source = stages[words.pop(0).removeprefix("--from=")].root
        *names, target = words
        for name in names:
            to = self.root / os.path.join(self.folder, target).lstrip("/")  # noqa: PTH118
            to = to / name if target.endswith("/") else to
            to.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-a", source / name.lstrip("/"), to], check=True)


def make_base(root):
    subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={BASE}", "bookworm", root], check=True
    )
    # names and certificates of the network that this machine is in
    for file in ("etc/resolv.conf", "etc/hosts", "etc/ssl/certs/ca-certificates.crt"):
        shutil.copy(f"/{file}", root / file)


def main():
    with tempfile.TemporaryDirectory() as work:
        base = Path(work) / "base"
        make_base(base)
        stages, stage, command = {}, None, None
        for step in DockerfileParser(str(DOCKERFILE)).structure:
            instruction, value = step["instruction"], step["value"]
            if instruction == "COMMENT":
                continue
            print(f"== {instruction} {value}", flush=True)
            if instruction == "FROM":
                name = value.split()[-1] if " AS " in value else "image"
                stage = stages[name] = Stage(Path(work) / name)
                subprocess.run(["cp", "-a", base, stage.root], check=True)
            elif instruction == "CMD":
                command = json.loads(value)
            else:
                stage.do(instruction, value, stages)
        print("== as a container that may write to /tmp alone", flush=True)
        for tried in (command, ["python", "-c", FIT], ["sh", "-ec", "! touch /opt/daskmlr/new"]):
            stage.run(*tried, before=READ_ONLY)


if __name__ == "__main__":
    main()
