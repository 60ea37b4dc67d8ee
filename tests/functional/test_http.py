"""The HTTP interface of a real daemon: where it listens, who is let in, what a build looks like in it."""

import http.client
import json
import os
import re
import socket
import stat
import subprocess
import threading
import time

import pytest

import peers
from conftest import SERVER, Server, keep_log

pytestmark = pytest.mark.skipif(SERVER != "nixbuild", reason="about our own program")


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=60)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(self.path)


def ask(connection, target, method="GET", token=None, body=None):
    """Status and body; JSON is taken apart."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    connection.request(method, target, body=body, headers=headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    return answer.status, json.loads(text) if answer.headers["Content-Type"] == "application/json" else text


class Daemon:
    """nixbuildd with a section http."""

    def __init__(self, scratch, listen, more=""):
        self.state_dir = scratch / "state"
        self.state_dir.mkdir(exist_ok=True)
        self.config = scratch / "config.toml"
        self.config.write_text(f'[http]\nlisten = "{listen}"\n{more}')
        self.log = scratch / "log"
        self.process = None

    def command(self, program="nixbuildd"):
        return [str(word) for word in (peers.program(program), "--state-dir", self.state_dir, "--config", self.config)]

    def __enter__(self):
        ready, ready_there = os.pipe()
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                self.command() + ["--ready-fd", str(ready_there)], stdin=subprocess.DEVNULL, stderr=log, pass_fds=[ready_there]
            )  # fmt: skip
        os.close(ready_there)
        with os.fdopen(ready, "rb") as told:
            assert told.read(1) == b"\n", self.log.read_text()
        return self

    def __exit__(self, *_):
        self.process.terminate()
        assert self.process.wait(timeout=30) == 0, self.log.read_text()

    def port(self):
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            for line in self.log.read_text().splitlines():
                if "HTTP on 127.0.0.1:" in line:
                    return int(line.rsplit(":", 1)[1])
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def nixbuild(self, *words, status=0):
        command = self.command("nixbuild")
        done = subprocess.run([*command, *words], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
        assert done.returncode == status, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout


def expect_well(connection):
    """Every loop of the daemon's own is told of, with the time of its last turn."""
    status, text = ask(connection, "/healthz")
    first, *loops = text.splitlines()
    assert (status, first) == (200, "ok")
    assert [line.split()[0] for line in loops] == ["accept", "tick", "sync", "machine", "usage", "forget", "http"]
    assert all(re.fullmatch(r"[a-z]+ [0-9]+\.[0-9] s ago", line) for line in loops), text


def test_unix_socket(scratch):
    path = scratch / "http.sock"
    with Daemon(scratch, f"unix:{path}"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        connection = UnixConnection(path)
        expect_well(connection)
        assert ask(connection, "/builds") == (200, [])
        assert ask(connection, "/builds/1")[0] == 404
        status, text = ask(connection, "/metrics")
        assert status == 200 and 'nixbuild_http_requests_total{code="404"} 1' in text
        assert ask(connection, "/builds/summary")[1]["build_count"] == 0
    assert not path.exists()


def test_tokens(scratch):
    with Daemon(scratch, "127.0.0.1:0") as daemon:
        connection = http.client.HTTPConnection("127.0.0.1", daemon.port(), timeout=60)
        expect_well(connection)
        assert ask(connection, "/builds")[0] == 401
        assert ask(connection, "/builds", token="nxb_" + "0" * 64)[0] == 401

        token = daemon.nixbuild("token", "add", "ci").strip()
        assert token.startswith("nxb_") and len(token) == 68
        file = daemon.state_dir / "http-tokens"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert token not in file.read_text()
        assert ask(connection, "/builds", token=token) == (200, [])
        assert ask(connection, "/metrics", token=token)[0] == 403
        assert ask(connection, "/builds/1/cancel", method="POST", token=token)[0] == 403

        made = json.loads(daemon.nixbuild("token", "add", "scrape", "--metrics", "--expires", "30d", "--json"))
        assert made["account"] == "*" and made["permissions"] == ["build:read"] and made["expires"]
        assert ask(connection, "/metrics", token=made["token"])[0] == 200
        assert ask(connection, "/builds", token=made["token"])[0] == 403

        listed = json.loads(daemon.nixbuild("token", "list", "--json"))
        assert [(entry["name"], entry["account"]) for entry in listed] == [("ci", "default"), ("scrape", "*")]
        assert "token" not in listed[0]
        assert "ci " in daemon.nixbuild("token", "list", "--account", "default")
        daemon.nixbuild("token", "add", "ci", status=1)
        daemon.nixbuild("token", "add", "other", "--allow", "build:burn", status=1)
        daemon.nixbuild("token", "remove", "scrape", status=4)
        daemon.nixbuild("token", "remove", "scrape", "--metrics")
        daemon.nixbuild("token", "remove", "ci")
        assert ask(connection, "/builds", token=token)[0] == 401
        assert daemon.nixbuild("token", "list") == "there is no token\n"


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "localhost:80", "unix:relative"])
def test_unsafe_or_wrong_addresses(scratch, listen):
    daemon = Daemon(scratch, listen)
    done = subprocess.run(daemon.command(), capture_output=True, text=True, timeout=60)
    assert done.returncode in (1, 3)
    assert done.stderr.strip().splitlines()[-1].startswith(f"error: http.listen '{listen}'")


def test_a_build_as_it_runs(module_scratch, small):
    path = module_scratch / "http.sock"
    config = module_scratch / "http.toml"
    config.write_text(f'[http]\nlisten = "unix:{path}"\n')
    with Server(module_scratch, config=config) as server:
        client = peers.Client(module_scratch, "2.8.0", sshd=server)
        body = 'echo first-line; i=0; while [ $i -lt 5 ]; do i=$((i+1)); sleep 1; done; echo last-line; echo x > "$out"'
        building = threading.Thread(target=small.build_remotely, args=(client, server, "http"), kwargs={"body": body})
        building.start()
        try:
            connection = UnixConnection(path)
            builds = []
            deadline = time.monotonic() + 120
            while not builds and time.monotonic() < deadline:
                if path.exists():
                    builds = ask(connection, "/builds")[1]
                time.sleep(0.2)
            number = builds[0]["build_id"]
            assert builds[0]["build_status"] in ("pending", "running")
            connection.request("GET", f"/builds/{number}/log?follow=1")
            answer = connection.getresponse()
            text = b""
            while b"first-line" not in text:
                piece = answer.read1()
                assert piece
                text += piece
            other = UnixConnection(path)
            assert ask(other, f"/builds/{number}")[1]["build_status"] in ("pending", "running")
            text += answer.read()
            assert b"last-line" in text
        finally:
            building.join()
        build = ask(connection, f"/builds/{number}")[1]
        assert build["build_status"] == "built" and build["status_message"] is None
        assert build["system"] == "x86_64-linux"
        assert build["derivation_path"].endswith(".drv")
        assert build["duration_seconds"] > 4 and build["cpu_seconds"] > 0
        assert ask(connection, f"/builds/{number}/log")[1].encode() == text
        assert ask(connection, "/usage")[1]["billable_build_count"] == 1
        assert 'nixbuild_sessions_total{protocol="serve"}' in ask(connection, "/metrics")[1]
        keep_log(server)
