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
        conftest.wait_until(lambda: not crowd.processes("nixbuild-runner"))
        assert crowd.ask("path", "verify")["findings"] == []
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
