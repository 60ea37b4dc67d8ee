"""One account tries, by every operation of both protocols, to see or to influence another one.

Each attempt is made on something that the other account has and on the same thing under a name that nobody
has: the answers must not differ by a byte. A new attempt is one line of SERVE or WORKER.
"""

import hashlib
import json
import re
import shutil
import statistics
import subprocess
import time
from pathlib import Path

import conftest
import pytest
from conftest import SERVER

import paper
import peers
import serve_wire
import worker_wire
from random_sessions import ServeSession, ask, aterm, nar_of, operation, read_export, read_outcome, sha256, store_path, truth
from serve_wire import number, text, texts

pytestmark = pytest.mark.skipif(SERVER != "nixbuild", reason="no other server has accounts")

ROUNDS = 200


class Thing:
    """A path with its derivation, realisation and output: an account has it, or nobody."""

    def __init__(self, salt):
        self.path = paper.path_of("path" + salt, "secret")
        self.top = paper.path_of("top" + salt, "top")
        variables = {"name": "secret", "salt": salt}
        masked = aterm("", "", "", {**variables, "out": ""})
        self.out = store_path("output:out", sha256(masked.encode()).hex(), "secret")
        self.text = aterm(self.out, "", "", {**variables, "out": self.out})
        self.drv = store_path("text", sha256(self.text.encode()).hex(), "secret.drv")
        self.realisation = "sha256:" + hashlib.sha256(salt.encode()).hexdigest() + "!out"

    def objects(self):
        """(path, archive, references), in an order in which they can be added."""
        return [
            (self.path, nar_of(b"secret contents"), []),
            (self.top, nar_of(b"top"), [self.path]),
            (self.out, nar_of(b"out"), []),
            (self.drv, nar_of(self.text.encode()), []),
        ]

    def hide(self, answer):
        """The answer without the names of this thing."""
        told = repr(answer)
        for name in (self.path, self.top, self.out, self.drv, self.realisation):
            for shown in (name, name.removeprefix("/nix/store/"), name[11:43]):
                told = told.replace(shown, "NAME")
        return re.sub(r"[0-9a-z]{32}-mine", "MINE", told)  # its hash depends on the name it refers to


def add_request(path, nar, references=()):
    return (
        number(9) + text(path) + text("") + text(sha256(nar).hex()) + texts(list(references)) + number(0)
        + number(len(nar)) + number(0) + texts([]) + text("") + nar
    )  # fmt: skip


def worker_add(path, nar, references=()):
    info = text("") + text(sha256(nar).hex()) + texts(list(references)) + number(0) + number(len(nar)) + number(0)
    return text(path) + info + texts([]) + text("") + number(0) + number(1) + worker_wire.framed(nar)


def basic_derivation(thing):
    """Of BuildDerivation: one that needs the path."""
    out = paper.path_of("mine", "mine")
    outputs = number(1) + text("out") + text(out) + text("") + text("")
    return text(thing.drv) + outputs + texts([thing.path]) + text("x86_64-linux") + text("/bin/sh") + texts([]) + number(0)


OPTIONS = number(0) * 6
MINE = paper.path_of("attempt", "mine")


def said(session):
    """(status, message) of a build."""
    return session.number(), session.text()


SERVE = {
    "valid": lambda t: ask(number(1) + number(0) + number(0) + texts([t.path, t.top]), lambda s: s.texts()),
    "valid, leased": lambda t: ask(number(1) + number(1) + number(0) + texts([t.path]), lambda s: s.texts()),
    "valid, substituted": lambda t: ask(number(1) + number(0) + number(1) + texts([t.path]), lambda s: s.texts()),
    "infos": lambda t: ask(number(2) + texts([t.path, t.top]), lambda s: s.infos()),
    "dump": lambda t: ask(number(3) + text(t.path), lambda s: s.nar()),
    "export": lambda t: ask(number(5) + number(0) + texts([t.path]), read_export),
    "closure": lambda t: ask(number(7) + number(0) + texts([t.top]), lambda s: s.texts()),
    "closure with outputs": lambda t: ask(number(7) + number(1) + texts([t.drv]), lambda s: s.texts()),
    "build a path": lambda t: ask(number(6) + texts([t.path]) + OPTIONS, read_outcome),
    "build a derivation that it has": lambda t: ask(number(6) + texts([f"{t.drv}!out"]) + OPTIONS, read_outcome),
    "build with its path as input": lambda t: ask(number(8) + basic_derivation(t) + OPTIONS, said),
    "add what refers to its path": lambda t: ask(add_request(MINE, nar_of(b"mine"), [t.path]), lambda s: s.number()),
}  # fmt: skip

WORKER = {
    "is valid": lambda t: operation(1, text(t.path), truth),
    "referrers": lambda t: operation(6, text(t.path), lambda s: s.texts()),
    "add text that refers": lambda t: operation(8, text("mine") + text("mine") + texts([t.path]), lambda s: s.text()),
    "build paths": lambda t: operation(9, texts([f"{t.drv}!out"]) + number(0), truth),
    "ensure": lambda t: operation(10, text(t.path), truth),
    "temporary root": lambda t: operation(11, text(t.path), truth),
    "collect it": lambda t: operation(
        20, number(3) + texts([t.path]) + number(0) * 5, lambda s: (s.texts(), s.number(), s.number())
    ),
    "all paths": lambda t: operation(23, b"", lambda s: s.texts()),
    "path info": lambda t: operation(26, text(t.path), lambda s: s.path_info() if s.number() else None),
    "path of its hash part": lambda t: operation(29, text(t.path[11:43]), lambda s: s.text()),
    "valid paths": lambda t: operation(31, texts([t.path, t.top]) + number(1), lambda s: s.texts()),
    "substitutable": lambda t: operation(32, texts([t.path]), lambda s: s.texts()),
    "derivers": lambda t: operation(33, text(t.out), lambda s: s.texts()),
    "build a derivation": lambda t: operation(36, basic_derivation(t) + number(0), said),
    "sign": lambda t: operation(37, text(t.path) + texts(["evil-1:" + "A" * 86 + "=="]), truth),
    "archive": lambda t: operation(38, text(t.path), lambda s: s.nar()),
    "add what refers": lambda t: operation(39, worker_add(MINE, nar_of(b"mine"), [t.path])),
    "missing": lambda t: operation(
        40, texts([f"{t.drv}!out", t.path]), lambda s: (s.texts(), s.texts(), s.texts(), s.number(), s.number())
    ),
    "outputs": lambda t: operation(41, text(t.drv), lambda s: [(s.text(), s.text()) for _ in range(s.number())]),
    "realisation": lambda t: operation(43, text(t.realisation), lambda s: s.texts()),
    "register its output": lambda t: operation(42, text(json.dumps(realisation(t)))),
    "build with results": lambda t: operation(46, texts([f"{t.drv}!out"]) + number(0), lambda s: s.number()),
    "verify": lambda t: operation(35, number(1) + number(0), truth),
    "roots": lambda t: operation(14, b"", lambda s: s.texts()),
}  # fmt: skip


def realisation(thing, out=None):
    return {
        "id": thing.realisation, "outPath": (out or thing.out).removeprefix("/nix/store/"), "signatures": [],
        "dependentRealisations": {},
    }  # fmt: skip


class House:
    """A server with the accounts `alice` and `mallory`; what is Alice's is there."""

    def __init__(self, scratch):
        self.state = Path(scratch) / "state"
        self.state.mkdir()
        self.config = Path(scratch) / "nixbuild.toml"
        self.config.write_text("[sandbox]\nallow-emulation = true\n[settings]\nshare-results = true\n")
        for account in ("alice", "mallory"):
            self.nixbuild("account", "add", account)
        self.there, self.nowhere = Thing("there"), Thing("nowhere")
        with_alice = self.worker("alice")
        for path, nar, references in self.there.objects():
            operation(39, worker_add(path, nar, references))(with_alice)
        operation(42, text(json.dumps(realisation(self.there))))(with_alice)
        assert operation(43, text(self.there.realisation), lambda s: s.texts())(with_alice)
        with_alice.end()

    def nixbuild(self, *words):
        command = [peers.program("nixbuild"), "--state-dir", self.state, "--config", self.config, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout

    def command(self, account, *words):
        serve = [peers.program("nixbuild-serve"), "--state-dir", self.state, "--config", self.config]
        return [*serve, "--account", account, *words]

    def serve(self, account):
        return ServeSession(self.command(account, "--serve", "--write"), 7)

    def worker(self, account):
        return worker_wire.Session(self.command(account, "--stdio"), 35, stderr=subprocess.DEVNULL)

    def answer(self, kind, account, attempt, thing):
        """What one attempt, in a session of its own, is told, without the names."""
        session = getattr(self, kind)(account)
        try:
            answer = attempt(thing)(session)
        except worker_wire.Refused as refused:
            answer = f"refused: {refused}"
        except (EOFError, BrokenPipeError, ConnectionResetError):
            answer = "ended"
        for end in (session.process.stdin, session.process.stdout):
            end.close()
        session.process.wait(60)
        return thing.hide(answer)

    def everything_of(self, account):
        """All that the account can see of its own."""
        session = self.worker(account)
        paths = operation(23, b"", lambda s: sorted(s.texts()))(session)
        infos = [operation(26, text(p), lambda s: s.path_info() if s.number() else None)(session) for p in paths]
        archives = [operation(38, text(p), lambda s: sha256(s.nar()))(session) for p in paths]
        realised = operation(43, text(self.there.realisation), lambda s: s.texts())(session)
        session.end()
        return paths, infos, archives, realised

    def end(self):
        peers.end_family(str(self.state))


@pytest.fixture(scope="module")
def house(module_scratch):
    made = House(module_scratch)
    yield made
    made.end()


ATTEMPTS = [("serve", name) for name in SERVE] + [("worker", name) for name in WORKER]


def test_no_operation_tells_the_other_account_s_things_from_nothing(house):
    assert len(ATTEMPTS) > 30
    before = house.everything_of("alice")
    assert len(before[0]) == 4 and before[3]
    told = []
    for kind, name in ATTEMPTS:
        attempt = (SERVE if kind == "serve" else WORKER)[name]
        answers = [house.answer(kind, "mallory", attempt, thing) for thing in (house.there, house.nowhere)]
        if answers[0] != answers[1]:
            told.append((kind, name, *answers))
        assert "secret contents" not in answers[0]
    assert not told
    assert house.everything_of("alice") == before


def test_the_owner_is_told_something_else(house):
    """Else the comparison above would show nothing."""
    different = 0
    for kind, name in ATTEMPTS:
        if name in ("collect it", "sign", "build with its path as input", "build a derivation", "verify", "roots"):
            continue  # changes things, builds, or is about everything
        attempt = (SERVE if kind == "serve" else WORKER)[name]
        answers = [house.answer(kind, "alice", attempt, thing) for thing in (house.there, house.nowhere)]
        different += answers[0] != answers[1]
    assert different >= 20


def test_the_time_of_an_answer_tells_nothing(house):
    """What is looked up under the other account's name takes as long as what is nowhere."""
    session = house.worker("mallory")
    times = {house.there: [], house.nowhere: []}
    for _ in range(ROUNDS):
        for thing, taken in times.items():
            step = operation(26, text(thing.path), truth)
            started = time.perf_counter()
            assert not step(session)
            taken.append(time.perf_counter() - started)
    session.end()
    there, nowhere = (statistics.median(taken) for taken in times.values())
    assert 0.5 < there / nowhere < 2


def build_of(house, account, busybox, letter, tag):
    """An input under one name whose contents are the account's own, and a build that copies it."""
    shell = paper.path_of("shell", "shell")
    data = paper.path_of("data" + tag, "data")
    out = paper.path_of("copied" + tag, "copied")
    with serve_wire.Session(house.command(account, "--serve", "--write")) as session:
        for path, nar in ((shell, busybox), (data, nar_of(letter.encode()))):
            session.add(path, [nar], len(nar), sha256(nar).hex())
        environment = {"out": out, "data": data}
        command = f"{shell}/bin/sh -c 'read line < {data}; echo copied $line > $out'"
        status, message = session.build(
            paper.path_of("copying" + tag, "copying.drv"), {"out": out}, [shell, data], "x86_64-linux",
            f"{shell}/bin/sh", ["-c", command], environment,
        )  # fmt: skip
        assert status in (paper.BUILT, paper.ALREADY_VALID), message
        ((_, _, size, _),) = session.infos(out).values()
        session.send(number(serve_wire.DUMP_STORE_PATH), text(out))
        return session.read(size), message


def test_each_builds_with_its_own_contents(house):
    """One name, other contents, results shared where they may be: nobody gets what another one's input made."""
    conftest.import_kernel(house.state)
    busybox = nar_of({"bin": {"sh": ("x", Path(shutil.which("busybox")).read_bytes())}})
    for account in ("alice", "mallory"):
        house.nixbuild("--account", account, "settings", "set", "share-results", "true")
    poisoned, _ = build_of(house, "mallory", busybox, "poison\n", "x")
    good, _ = build_of(house, "alice", busybox, "good\n", "x")
    assert b"copied poison\n" in poisoned and b"copied good\n" in good
    # And again, now that both results are known.
    assert build_of(house, "mallory", busybox, "poison\n", "x")[0] == poisoned
    assert build_of(house, "alice", busybox, "good\n", "x")[0] == good
    builds = json.loads(house.nixbuild("--account", "alice", "builds", "--json"))
    assert [build["status"] for build in builds if "copying" in build["derivation"]] == ["Built"]
    assert all(build["accelerator"] in ("kvm", "tcg") for build in builds if "copying" in build["derivation"])
