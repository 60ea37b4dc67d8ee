"""A host that cannot run machines says so at once and everywhere, and blames no build for it."""

import json
import subprocess
import time

import conftest
import pytest
from conftest import SERVER
from test_http import UnixConnection, ask

import paper
import peers

pytestmark = pytest.mark.skipif(SERVER != "nixbuild", reason="looks into our daemon")

TRANSIENT_FAILURE = 6
REASON = "Could not access KVM kernel module: Permission denied"


@pytest.fixture
def house(scratch):
    made = paper.Paper(scratch, more=f'[http]\nlisten = "unix:{scratch}/http.sock"\n')
    conftest.import_kernel(made.state)
    yield made, scratch / "http.sock"
    made.end()


def get(socket, target):
    return ask(UnixConnection(socket), target)


def doctor(house):
    done = subprocess.run(house.command("nixbuild", "doctor", "--json"), capture_output=True, timeout=60)
    return done.returncode, {found["check"]: found for found in json.loads(done.stdout)}


def test_a_fault_of_the_host_costs_one_attempt_and_is_told(house):
    daemon, http = house
    with daemon.session() as session:
        assert daemon.build(session, "before")[0] == paper.BUILT
        assert get(http, "/healthz")[0] == 200
        (daemon.folder / "share/qemu/refuse").touch()
        for tag in ("first", "second"):
            began = time.monotonic()
            status, message, _ = daemon.build(session, tag)
            assert status == TRANSIENT_FAILURE
            assert "could not run on this host, which is no fault of the build" in message and REASON in message
            assert time.monotonic() - began < 10  # lost machines are waited for: 3, 8, 18 seconds
        status, said = get(http, "/healthz")
        assert status == 503 and said.startswith("failing\n"), said
        assert "no machine works on this host: builds fail\n" in said
        metrics = get(http, "/metrics")[1]
        assert "\nnixbuild_host_closed 1\n" in metrics and "\nnixbuild_host_without_kvm 0\n" in metrics
        attempts = [daemon.ask("why", str(build["id"]))["attempt"] for build in daemon.ask("builds")]
    assert attempts == [0, 1, 1]  # the last one did not even begin
    status, findings = doctor(daemon)
    assert status == 1 and findings["machine"]["level"] == "problem"
    assert findings["machine"]["says"].count(REASON) == 2 and "the daemon says: since " in findings["machine"]["says"]
    log = (daemon.state / "daemon.log").read_text()
    assert log.count("error no machine works on this host, builds fail: ") == 1


def test_kvm_that_is_insisted_on(house):
    """Told at the start; builds are refused with the setting's name."""
    daemon, _ = house
    daemon.config.write_text(daemon.config.read_text().replace('"tcg"', '"kvm"'))
    accelerator = doctor(daemon)[1]["accelerator"]
    if accelerator["level"] == "ok":
        pytest.skip("KVM works here")
    assert accelerator["level"] == "problem" and 'sandbox.accelerator = "auto"' in accelerator["advice"]
    with daemon.session() as session:
        log = (daemon.state / "daemon.log").read_text()
        assert 'builds will fail: the configuration insists on KVM (sandbox.accelerator = "kvm")' in log
        status, message, _ = daemon.build(session, "refused")
    assert status == TRANSIENT_FAILURE and 'sandbox.accelerator = "kvm"' in message
