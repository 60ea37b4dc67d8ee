"""A daemon whose machines are on paper (paper_emulator.cpp), and wire clients that build with it."""

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import peers
import serve_wire
from random_sessions import STORE, nix32

BUILT, ALREADY_VALID = 0, 2


def program(name):
    return peers.BUILD / "tests" / name


def path_of(text, name):
    """A store path that stands for `text`."""
    return f"{STORE}/{nix32(hashlib.sha256(text.encode()).digest()[:20])}-{name}"


class Paper:
    """The state directory, the configuration and the emulator of such a daemon."""

    def __init__(self, scratch, cpus=2, settings="", more=""):
        self.state = Path(scratch) / "state"
        self.folder = Path(scratch) / "paper"
        # The emulator sees this folder of its prefix, as if it were firmware.
        self.locks = self.folder / "share/qemu/locks"
        for folder in (self.state, self.folder / "bin", self.locks):
            folder.mkdir(parents=True)
        emulator = self.folder / "bin/emulator"
        shutil.copy(program("paper-emulator"), emulator)
        self.config = Path(scratch) / "nixbuild.toml"
        self.config.write_text(
            f"[builds]\ncpus = {cpus}\nbuild-cpus = 1\nmemory-mib = {cpus * 256}\nbuild-memory-mib = 256\n"
            f'[sandbox]\naccelerator = "tcg"\nqemu = "{emulator}"\n{more}[settings]\n{settings}'
        )

    def command(self, name, *words):
        return [peers.program(name), "--state-dir", self.state, "--config", self.config, *words]

    def ask(self, *words):
        """What an administration command answers, as JSON."""
        done = subprocess.run(
            self.command("nixbuild", *words, "--json"), check=True, capture_output=True, timeout=60
        )
        return json.loads(done.stdout)

    def session(self, *words, **more):
        command = self.command("nixbuild-serve", *words, "--serve", "--write")
        return serve_wire.Session(command, **more)

    def request(self, tag, milliseconds=20, **more):
        """What `serve_wire.Session.build` takes, and the output path."""
        lock = self.locks / tag
        lock.touch()
        out = path_of(tag, tag)
        environment = {
            "out": out, "name": tag, "paperMs": str(milliseconds), "paperContents": f"made by {tag}\n",
            "paperLock": str(lock), **more,
        }  # fmt: skip
        drv = path_of("drv " + tag, tag + ".drv")
        return (drv, {"out": out}, [], "x86_64-linux", "/bin/sh", [], environment), out

    def build(self, session, tag, milliseconds=20, **more):
        """(status, message, output path) of the build with that tag."""
        wanted, out = self.request(tag, milliseconds, **more)
        return *session.build(*wanted), out

    def contents(self, session, out):
        """The one file that the output is."""
        ((_, _, size, _),) = session.infos(out).values()
        session.send(serve_wire.number(serve_wire.DUMP_STORE_PATH), serve_wire.text(out))
        held = session.read(size).split(serve_wire.text("contents"), 1)[1]
        return held[8 : 8 + int.from_bytes(held[:8], "little")]

    def processes(self, name):
        """Process numbers of a program of this daemon."""
        found = peers.find_processes(str(self.state)).items()
        return {pid for pid, words in found if os.path.basename(words[0]) == name}

    def end(self):
        peers.end_family(str(self.state))
