"""Many clients at once: two hundred sessions with builds on paper, twenty Nix clients with machines."""

import subprocess
import threading
from concurrent import futures

import conftest
import pytest

import paper
import peers

pytestmark = pytest.mark.skipif(conftest.SERVER != "nixbuild", reason="looks into our daemon")

CLIENTS, BUILDS = 200, 50
NIX_CLIENTS, NIX_BUILDS = 20, 10


def test_two_hundred_clients_on_paper(scratch):
    crowd = paper.Paper(scratch, cpus=8)
    conftest.import_kernel(crowd.state)
    try:
        together = threading.Barrier(CLIENTS, timeout=120)

        def one(client):
            with crowd.session() as session:
                tag = f"crowd-{client % BUILDS}"
                together.wait()
                status, message, out = crowd.build(session, tag, milliseconds=100)
                assert status in (paper.BUILT, paper.ALREADY_VALID), (tag, status, message)
                assert crowd.contents(session, out) == f"made by {tag}\n".encode()
                _, said = session.close()
                return status, said

        with futures.ThreadPoolExecutor(CLIENTS) as pool:
            answers = list(pool.map(one, range(CLIENTS)))
        # Whoever was there while it was built saw the whole log.
        shared = [said for status, said in answers if status == paper.BUILT]
        assert len(shared) >= BUILDS
        for said in shared:
            lines = [line for line in said.splitlines() if line.startswith("paper line")]
            assert lines == [f"paper line {i}" for i in range(10)], said
        # Each was built once, by one machine, whoever asked.
        builds = crowd.ask("builds", "--limit", "1000")
        assert len(builds) == BUILDS
        assert {build["status"] for build in builds} == {"Built"}
        outputs = [output["path"] for build in builds for output in build["outputs"]]
        assert sorted(outputs) == sorted(paper.path_of(tag, tag) for tag in (f"crowd-{i}" for i in range(BUILDS)))
        conftest.wait_until(lambda: not crowd.processes("nixbuild-runner"))
        assert crowd.ask("path", "verify")["findings"] == []
    finally:
        crowd.end()


def test_keys_share_by_their_weights(scratch):
    """Two keys of one account and one processor: three starts of the heavy one for one of the other."""
    crowd = paper.Paper(scratch, cpus=1)
    conftest.import_kernel(crowd.state)
    try:
        keys = {}
        for name, weight in (("heavy", 300), ("light", 100)):
            public = scratch / name
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", public], check=True)
            keys[name] = str(crowd.ask("key", "add", f"{public}.pub")["id"])
            subprocess.run(
                crowd.command("nixbuild", "settings", "set", "key-weight", str(weight), "--key", keys[name]), check=True
            )
        each, order = 8, []
        with crowd.session() as first, futures.ThreadPoolExecutor(2 * each + 1) as pool:
            # Holds the processor until all of them wait.
            holding = pool.submit(crowd.build, first, "holding", 2000)

            def one(name, number):
                with crowd.session("--key", keys[name]) as session:
                    status = crowd.build(session, f"{name}-{number}", 100)[0]
                    order.append(name)
                    return status

            asked = [pool.submit(one, name, number) for number in range(each) for name in keys]
            assert holding.result()[0] == paper.BUILT, holding.result()
            assert {done.result() for done in asked} == {paper.BUILT}
        assert order[:8].count("heavy") in (5, 6, 7), order
    finally:
        crowd.end()


def test_twenty_clients_with_machines(module_scratch, server, small):
    """Two of them for each build."""
    clients = [
        peers.Client(module_scratch, peers.VERSIONS[i % 2], name=f"crowd-{i}", sshd=server, scheme=peers.SCHEMES[i // 2 % 2])
        for i in range(NIX_CLIENTS)
    ]  # fmt: skip
    together = threading.Barrier(NIX_CLIENTS, timeout=120)

    def one(number):
        tag = f"crowd-{number // 2}"
        together.wait()
        done = small.build_remotely(clients[number], server, tag)
        return clients[number].real(done.stdout.strip()).read_text()

    with futures.ThreadPoolExecutor(NIX_CLIENTS) as pool:
        made = list(pool.map(one, range(NIX_CLIENTS)))
    print(made)
    assert made[0::2] == made[1::2]
    assert len(set(made)) == NIX_BUILDS
    listed = subprocess.run(
        [peers.program("nixbuild"), "--state-dir", server.state_dir, "builds", "--json"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert listed.count("-crowd-") >= NIX_BUILDS
