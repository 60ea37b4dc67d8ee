"""Sizes that only streaming survives: a NAR of 4 GiB and one of 200,000 files, in and out bit for
bit, while the daemon's resident memory stays under 64 MiB."""

import shutil

import pytest

import peers
import serve_wire
from conftest import SERVER

pytestmark = pytest.mark.skipif(SERVER != "nixbuild", reason="measures our daemon")
GIB = 1 << 30
PEAK_MIB = 64


@pytest.fixture
def store(scratch):
    """A fresh state directory, and an idle server on it that ends with the test."""
    state = scratch / "state"
    state.mkdir()
    yield state
    peers.end_family(str(state))


def session(state):
    return serve_wire.Session(
        [peers.program("nixbuild-serve"), "--state-dir", state, "--serve", "--write"]
    )


def daemon_of(state):
    (pid,) = [
        pid
        for pid, words in peers.find_processes(str(state)).items()
        if words[0].rsplit("/", 1)[-1] == "nixbuildd"
    ]
    return pid


@pytest.mark.parametrize(
    "name,make",
    [
        ("four-gib", lambda: serve_wire.big_file_nar(4 * GIB + 5)),
        ("many-files", lambda: serve_wire.many_files_nar(100, 2000)),
    ],
    ids=["4-GiB", "200,000-files"],
)
def test_in_and_out(store, name, make):
    if name == "four-gib" and shutil.disk_usage(store).free < 6 * GIB:
        pytest.skip("less than 6 GiB of disk are free")
    size, digest = serve_wire.measure(make())
    path = serve_wire.store_path("b", name)
    with session(store) as wire:
        pid = daemon_of(store)
        wire.add(path, make(), size, digest)
        after_import = peers.resident_peak_mib(pid)
        assert wire.valid(path) == [path]
        assert wire.infos(path)[path][2] == size
        assert wire.dump(path, size) == digest
        # The stream ended where it should: the next answer is in its place.
        assert wire.valid(path) == [path]
        peak = peers.resident_peak_mib(pid)
    print(f"{name}: NAR of {size} bytes, peak {after_import:.1f} MiB after import, {peak:.1f} MiB in all")
    assert peak < PEAK_MIB


def test_broken_uploads_leave_nothing(store):
    """A wrong hash, a wrong size, rubbish or a cut connection: an error, and the path stays unknown."""
    nar = b"".join(serve_wire.many_files_nar(1, 20))
    size, digest = serve_wire.measure([nar])
    path = serve_wire.store_path("c", "broken")
    missing = serve_wire.store_path("d", "never-seen")
    attempts = {
        "wrong hash": (nar, size, "0" * 64, []),
        "too long": (nar + bytes(8), size + 8, digest, []),
        "rubbish": (b"\xff" * size, size, digest, []),
        "missing reference": (nar, size, digest, [missing]),
        "cut": (nar[: size // 2], size, digest, []),
    }
    for name, (sent, told, announced, references) in attempts.items():
        wire = session(store)
        try:
            wire.begin_add(path, told, announced, references)
            wire.send(sent)
        except BrokenPipeError:
            pass  # refused before the end: the cause is on stderr
        if name != "cut":
            with pytest.raises(EOFError):
                wire.number()
        wire.__exit__() if name == "cut" else wire.process.wait(60)
        assert wire.process.returncode != 0, name
        with session(store) as again:
            assert again.valid(path) == [], name
    with session(store) as wire:
        wire.add(path, [nar], size, digest)
        assert wire.dump(path, size) == digest


def test_missing_input_is_named(store):
    """A build whose input is not there ends with Nix's status (9) and the input's name."""
    missing = serve_wire.store_path("d", "never-seen")
    with session(store) as wire:
        status, message = wire.build(
            serve_wire.store_path("f", "x.drv"),
            {"out": serve_wire.store_path("g", "x")},
            [missing],
            "x86_64-linux",
            missing + "/bin/sh",
            [],
            {"out": serve_wire.store_path("g", "x")},
        )
        assert status == 9
        assert missing in message
        assert wire.valid(missing) == []
