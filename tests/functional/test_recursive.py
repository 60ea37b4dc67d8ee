"""Builders that talk to a store (recursive-nix): real Nix programs inside the machine, whose answers go into the
output, so that it is the same as under a local Nix only where every answer is."""

import json

import pytest

import conftest
import peers
from conftest import HERE

pytestmark = pytest.mark.skipif(conftest.SERVER != "nixbuild", reason="compares with our server")

ASKS = """
mkdir -p $out tree/deep
echo hello > tree/deep/file; echo '#!/bin/sh' > tree/run; chmod 755 tree/run; ln -s ../nowhere tree/deep/link
dd if=/dev/zero bs=1000 count=3000 2>/dev/null | tr '\\0' x > tree/large
{
  echo references; nix-store -q --references $busybox $inner
  echo requisites; nix-store -q --requisites $nix $busybox | sort
  echo referrers; nix-store -q --referrers $busybox
  echo deriver; nix-store -q --deriver $busybox
  echo hash; nix-store -q --hash $busybox
  echo size; nix-store -q --size $inner
  echo valid; nix-store --check-validity $busybox && echo yes
  echo stranger; nix-store --check-validity $stranger 2>&1 || echo no
  nix-store --realise $stranger > taken 2>&1 && echo realised || echo not realised
  nix-store --export $stranger > taken 2> /dev/null && echo exported || echo not exported
  test ! -e $stranger && echo not here

  echo additions
  added=$(nix-store --add tree)
  echo $added
  find $added | sort | while read -r path; do stat -c '%n %a %Y %F' $path; done
  cat $added/deep/file; sha256sum < $added/large
  nix-store -q --references $added
  again=$(nix-store --add tree); test $again = $added && echo the same
  fixed=$(nix-store --add-fixed sha256 tree/deep/file); echo $fixed; cat $fixed
  if (echo x > $added/new) 2> /dev/null; then echo written; else echo kept; fi

  echo builds
  made=$(build first 'echo made inside > $out; echo a word from inside >&2')
  echo $made; cat $made
  nix-store -q --references $made; nix-store -q --deriver $made
  linked=$(nix-build -o result $inner --argstr busybox $busybox --argstr name first --argstr script 'echo made inside > $out; echo a word from inside >&2')
  echo $linked; readlink result; cat result
  user=$(build user "echo behind $made > \\$out"); cat $user; nix-store -q --references $user
  build fails 'echo a last word >&2; exit 7' > none 2> why || echo failed
  for number in 1 2 3 4 5 6 7 8; do nix-store -q --hash $busybox > hash-$number & done; wait
  sort -u hash-*
} > $out/answers
ln -s $made $out/made
"""

NESTED = """
script='export HOME=$TMPDIR NIX_CONFIG="substituters ="; $nix/bin/nix-build --no-out-link -E "derivation { name = \\"deepest\\"; system = \\"x86_64-linux\\"; builder = \\"/bin/sh\\"; args = [ \\"-c\\" \\"echo deep > \\$out\\" ]; }" > $out'
made=$(nix-build --no-out-link $inner --arg features '[ "recursive-nix" ]' --argstr busybox $busybox --argstr nix $nix --argstr name between --argstr script "$script")
mkdir $out; cat $made $(cat $made) > $out/answers
"""

BODIES = {"asks": ASKS, "nested": NESTED}


class World:
    """What the cases of one Nix version share."""

    def __init__(self, scratch, version, server):
        self.scratch = scratch
        self.bb = peers.busybox_folder(scratch)
        self.nix = peers.loose_nix(scratch, version)
        self.stranger_file = scratch / "stranger"
        self.stranger_file.write_text("nobody's input\n")
        more = {"experimental": "recursive-nix"}
        self.local = peers.Client(scratch, version, name=f"local-{version}", **more)
        self.remote = peers.Client(scratch, version, name=f"remote-{version}", sshd=server, scheme="ssh-ng", **more)
        self.hook = peers.Client(scratch, version, name=f"hook-{version}", sshd=server, scheme="ssh", **more)
        self.stranger = self.local.run("nix-store", "--add", self.stranger_file).stdout.strip()

    def words(self, case, body=None):
        return [
            HERE / "recursive.nix", "--argstr", "bb", self.bb, "--argstr", "nix", self.nix, "--argstr", "name", case,
            "--argstr", "body", body or BODIES[case], "--argstr", "stranger", self.stranger,
        ]  # fmt: skip


@pytest.fixture(scope="module")
def server(module_scratch):
    config = module_scratch / "nixbuild.toml"
    # One build at a time: a builder that waits for another one must not wait for its own place.
    config.write_text("[builds]\ncpus = 1\nbuild-cpus = 1\nbuild-memory-mib = 768\n[settings]\nsettings-from-drv-env = true\n")
    with conftest.Server(module_scratch, config=config) as started:
        yield started
        conftest.keep_log(started)


@pytest.fixture(scope="module", params=peers.VERSIONS)
def world(request, module_scratch, server):
    return World(module_scratch, request.param, server)


def facts(client, path, *where):
    told = json.loads(client.run("nix", "path-info", "--json", *where, path).stdout)
    told = told[0] if isinstance(told, list) else told[path]
    return path, told["narHash"], told["narSize"], sorted(told["references"])


@pytest.mark.parametrize("case", BODIES)
def test_answers_are_those_of_a_local_nix(case, world):
    done = world.local.run(
        "nix-build", *world.words(case), "--no-out-link", "--option", "system-features", "recursive-nix"
    )
    path = done.stdout.strip()
    expected = facts(world.local, path)
    answers = world.local.run("nix", "store", "cat", f"{path}/answers").stdout
    where = ["--store", world.remote.remote]
    world.remote.run("nix", "store", "add-path", *where, "--name", "stranger", world.stranger_file)
    world.remote.run(
        "nix", "build", "--impure", "--no-link", *where, "--eval-store", "auto", "-f", *world.words(case)
    )
    told = world.remote.run("nix", "store", "cat", *where, f"{path}/answers").stdout
    assert told.splitlines() == answers.splitlines()
    assert facts(world.remote, path, *where) == expected


def test_as_a_builder(world, server):
    """What refers to nothing from inside comes back over the hook, too. (What does needs a client that copies
    more than the outputs, which none does.)"""
    body = "mkdir $out; made=$(build plain 'echo made > $out'); cat $made > $out/answers"
    builders = server.builders(features="recursive-nix")
    done = world.hook.run("nix-build", *world.words("hook", body), "--no-out-link", "-j0", "--builders", builders)
    path = done.stdout.strip()
    assert world.hook.run("nix", "store", "cat", f"{path}/answers").stdout == "made\n"
    assert facts(world.hook, path)[3] == []


REFUSED = """
mkdir $out
nix-store --delete $busybox > said 2>&1 || true; cat said
nix-store --verify > said 2>&1 || grep -o '.[A-Za-z]* is not offered to builders' said
nix-store --repair-path $busybox > said 2>&1 || echo not repaired
test -x $busybox/bin/busybox && nix-store -q --hash $busybox > $out/answers
"""


DATABASE = """
mkdir $out
test -z "$NIX_REMOTE"
export NIX_REMOTE=local
{
  nix-store -q --references $busybox $inner
  nix-store -q --requisites $nix $busybox $derived | sort
  nix-store -q --hash $busybox $derived
  nix-store -q --size $derived
  nix-store -q --deriver $derived $busybox
  nix-store -q --referrers $busybox
  nix-store --check-validity $stranger 2> /dev/null || echo no stranger
  nix-store --verify-path $derived $busybox && echo intact
  added=$(nix-store --add $inner); cat $added | wc -l
} > $out/answers
"""


def test_a_database_of_the_inputs(world):
    """By a setting, and without a store to talk to: Nix's programs find their own database, and may write to it."""
    where = ["--store", world.remote.remote]
    words = world.words("database", DATABASE) + ["--arg", "features", "[ ]", "--argstr", "settings", "database"]
    done = world.remote.run(
        "nix", "build", "--impure", "--no-link", "-L", "--json", *where, "--eval-store", "auto", "-f", *words
    )
    path = json.loads(done.stdout)[0]["outputs"]["out"]
    answers = world.remote.run("nix", "store", "cat", *where, f"{path}/answers").stdout.splitlines()
    told = json.loads(world.remote.run("nix", "path-info", "--json", "-r", *where, path).stdout)
    told = {info["path"]: info for info in told} if isinstance(told, list) else told
    print("\n".join(answers), done.stderr)
    derived = next(known for known in told if known.endswith("-derived"))
    busybox = next(known for known in told if known.endswith("-bb"))
    assert told[derived]["deriver"] in answers and "unknown-deriver" in answers
    assert str(told[derived]["narSize"]) in answers
    assert {"no stranger", "intact", derived, busybox} <= set(answers)


def test_what_builders_may_not_do(world):
    """Neither deletes nor repairs, and the conversation goes on."""
    where = ["--store", world.remote.remote]
    done = world.remote.run(
        "nix", "build", "--impure", "--no-link", "-L", "--json", *where, "--eval-store", "auto", "-f",
        *world.words("refused", REFUSED),
    )  # fmt: skip
    path = json.loads(done.stdout)[0]["outputs"]["out"]
    assert world.remote.run("nix", "store", "cat", *where, f"{path}/answers").stdout.startswith("sha256:")
    assert "VerifyStore is not offered to builders" in done.stderr
    assert "not repaired" in done.stderr
