"""The same random sessions to a real Nix server and to ours; every field of every answer compared.

NIXBUILD_TEST_SEED=N repeats one run (each failure prints its seed); NIXBUILD_TEST_SESSIONS=N makes it
longer. What may differ is COMPARED and ACCEPTED below, each with its reason; docs/protocol-differences.md
tells people.
"""

import os
import random
import subprocess
import time

import pytest
import random_sessions
import worker_wire

import peers

SESSIONS = int(os.environ.get("NIXBUILD_TEST_SESSIONS", "60"))
SERVE_MINORS = [1, 2, 3, 4, 5, 6, 7]
WORKER_MINORS = [18, 19, 20, 21, 22, 23, 24, 25, 26, 29, 30, 31, 32, 33, 34, 35, 38]

pytestmark = pytest.mark.skipif(
    os.environ.get("NIXBUILD_TEST_SERVER", "nixbuild") != "nixbuild", reason="compares with our server"
)


def run_step(session, step):
    """What came back, as plain values: an answer, a refusal, or the end of the session."""
    try:
        return "answer", step(session)
    except worker_wire.Refused as refused:
        return "refused", str(refused)
    except TimeoutError as late:
        session.process.kill()
        return "late", str(late)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return "ended", None
    except worker_wire.Lost:
        session.process.kill()
        return "ended", None  # it reads what is left of a refused request as another one


def references_first(exported):
    """Paths that are not related come in any order, but each stands behind those it refers to."""
    places = {entry[0]: place for place, entry in enumerate(exported)}
    good = all(places.get(other, -1) <= place for place, entry in enumerate(exported) for other in entry[2])
    return good, sorted(exported)


# Kind of step: what of its answer is compared. A set of paths has no order: Nix sends it sorted, we as it
# was asked or found, and clients read it into a set.
COMPARED = {
    **dict.fromkeys(["valid", "closure", "referrers", "all", "derivers", "substitutable", "outputs"], sorted),
    "export": references_first,
}

# Kind of step: an outcome of Nix's that is ours in another way, and why ours is no worse.
ACCEPTED = {
    ("nar", "ended", "refused"): "NarFromPath of a path that is not valid: Nix has begun its answer and ends the "
    "session; we say so in the protocol",
    ("sign", "ended", "refused"): "AddSignatures to a path that is not valid: Nix's process dies; we say so in the protocol",
}


def same(kind, theirs, ours):
    if theirs[0] != ours[0]:
        return (kind, theirs[0], ours[0]) in ACCEPTED
    if theirs[0] != "answer":
        return True  # the words of an error are each server's own
    compared = COMPARED.get(kind, lambda value: value)
    return compared(theirs[1]) == compared(ours[1])


class Pair:
    """A real server and ours over stores with equal contents."""

    def __init__(self, scratch, version):
        self.nix = peers.Client(scratch, version, name=f"differential-{version}")
        self.state = scratch / f"state-{version}"

    def sessions(self, protocol, minor):
        theirs = {"serve": ["nix-store", "--serve", "--write"], "worker": ["nix-daemon", "--stdio"]}[protocol]
        ours = [peers.program("nixbuild-serve"), "--state-dir", self.state]
        ours += {"serve": ["--serve", "--write"], "worker": ["--stdio"]}[protocol]
        if protocol == "serve":
            return (
                random_sessions.ServeSession(theirs, minor, env=self.nix.environment()),
                random_sessions.ServeSession(ours, minor),
            )
        quiet = {"stderr": subprocess.DEVNULL}
        return (
            worker_wire.Session(theirs, minor, env=self.nix.environment(), **quiet),
            worker_wire.Session(ours, minor, **quiet),
        )

    def close(self):
        peers.end_family(str(self.state))


@pytest.fixture(scope="module", params=peers.VERSIONS)
def pair(request, module_scratch):
    made = Pair(module_scratch, request.param)
    yield made
    made.close()


@pytest.mark.parametrize("protocol", ["serve", "worker"])
def test_same_answers(pair, protocol):
    seed = int(os.environ.get("NIXBUILD_TEST_SEED") or time.time_ns() % 1_000_000)
    print(f"NIXBUILD_TEST_SEED={seed} repeats this; {SESSIONS} sessions of {protocol}")
    world = random_sessions.World(random.Random(seed))
    differences = []
    for index in range(SESSIONS):
        minor = world.random.choice(SERVE_MINORS if protocol == "serve" else WORKER_MINORS)
        theirs, ours = pair.sessions(protocol, minor)
        minor = min(minor, theirs.minor, ours.minor)
        theirs.minor = ours.minor = minor
        steps = random_sessions.serve_steps if protocol == "serve" else random_sessions.worker_steps
        before = []
        for kind, step in steps(world, minor):
            outcomes = run_step(theirs, step), run_step(ours, step)
            before.append((kind, outcomes[0][0], outcomes[1][0]))
            if not same(kind, *outcomes):
                differences.append((index, minor, kind, *outcomes))
                print(index, before)
            if {"ended", "late"} & {outcomes[0][0], outcomes[1][0]}:
                break
        statuses = theirs.end(), ours.end()
        over = "ended" in outcomes[0]
        if not over and (statuses[0] == 0) != (statuses[1] == 0):
            differences.append((index, minor, "exit status", *statuses))
    said = "\n".join(
        f"session {index} (minor {minor}), {kind}:\n  theirs {str(first)[:600]}\n  ours   {str(second)[:600]}"
        for index, minor, kind, first, second in differences[:20]
    )
    assert not differences, f"seed {seed}, {len(differences)} differences\n{said}"
