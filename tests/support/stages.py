"""The stages of tests/run: what each consists of, as jobs that share the machine's processors (lanes.py).

Each test of each stage is counted once; the last line printed is `N passed, N failed`, with
`, N skipped` behind it when something was skipped. What the run took is printed, kept as JSON beside the
build, and held to tests/budget.json (spent.py).
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import lanes
import peers
import spent
from lanes import Job

REPOSITORY = Path(__file__).resolve().parent.parent.parent
BUILD = Path(os.environ.get("NIXBUILD_TEST_BUILD_DIR", REPOSITORY / "build"))
SANITIZED = BUILD / "sanitized"
PYTHON = "/usr/bin/python3"
SKIPPED = 77
MINUTE = 60


def say(line):
    print(line, flush=True)


def run(command, timeout, output=None, **more):
    """Exit status of a command with a time limit; it and its children are ended when that passes."""
    process = subprocess.Popen(
        [str(word) for word in command],
        cwd=more.pop("cwd", REPOSITORY),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT if output else None,
        start_new_session=True,
        **more,
    )
    try:
        return process.wait(timeout)
    except (subprocess.TimeoutExpired, KeyboardInterrupt) as reason:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if isinstance(reason, KeyboardInterrupt):
            raise
        say(f"'{' '.join(str(word) for word in command[:4])} …' took more than {timeout} s")
        return 124


def count(report, name, status):
    if status == 0:
        report.passed += 1
    elif status == SKIPPED:
        report.skipped.append(name)
        say(f"skipped: {name}")
    else:
        report.failed.append(name)
        say(f"FAILED: {name} (exit status {status})")


def count_junit(report, stage, file, status):
    """Counts the cases of a JUnit file; a program that ended badly without one is one failure."""
    try:
        cases = list(ElementTree.parse(file).iter("testcase"))
    except (ElementTree.ParseError, OSError):
        report.failed.append(stage)
        say(f"FAILED: {stage} left no report (exit status {status})")
        return
    before = len(report.failed)
    for case in cases:
        name = f"{stage}: {case.get('classname', '')} {case.get('name', '')}"
        report.cases.append((name, float(case.get("time") or 0)))
        if case.find("failure") is not None or case.find("error") is not None:
            report.failed.append(name)
            say(f"FAILED: {name}")
        elif case.find("skipped") is not None:
            report.skipped.append(name)
        else:
            report.passed += 1
    if status not in (0, 5) and len(report.failed) == before or status == 5:
        report.failed.append(stage)
        say(f"FAILED: {stage} ended with {status}")


def count_meson(report, stage, folder, status):
    """Counts what `meson test` has run."""
    try:
        lines = (folder / "meson-logs/testlog.json").read_text().splitlines()
    except OSError:
        lines = []
    results = {"OK": 0, "SKIP": SKIPPED}
    for line in lines:
        record = json.loads(line)
        count(report, f"{stage} {record['name']}", results.get(record["result"], 1))
    if not lines:
        count(report, f"{stage}: no test ran", status or 1)


def processors():
    return len(os.sched_getaffinity(0))


# --- building ----------------------------------------------------------------------------------------


def compiler_is_ours():
    """Whether the compiler is the one that warnings are kept at zero for."""
    version = subprocess.run(["g++", "-dumpversion"], stdout=subprocess.PIPE, text=True).stdout
    return version.strip().split(".")[0] == "12"


def configure(folder, *options, strict=True):
    if (folder / "build.ninja").exists():
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    errors = ["-Dwerror=true"] if strict and compiler_is_ours() else []
    return run(["meson", "setup", "--wrap-mode=nodownload", folder, *errors, *options], 5 * MINUTE, output=subprocess.DEVNULL)


# Most of what a source costs to compile is the same for all that stand on the same headers: many at once. A
# folder that is there already, a developer's own, is used as it was configured.
TOGETHER = ["-Dunity=on", "-Dunity_size=20"]

# With the sanitizers every unit program is built and run; without them as well only those that have cases of
# their own there: machines, and what memory really takes.
PLAIN_UNITS = ["unit-sandbox", "unit-scheduler"]


def units_run_once(chosen):
    """Whether the sanitized stage stands for most of the plain unit programs."""
    return "sanitized" in chosen and "unit" in chosen


def targets_of(chosen):
    """What ninja is to build; nothing: everything."""
    if not units_run_once(chosen):
        return []
    asked = subprocess.run(["ninja", "-C", BUILD, "-t", "query", "all"], stdout=subprocess.PIPE, text=True)
    wanted = re.findall(r"^    (\S+/\S+)$", asked.stdout.split("outputs:")[0], re.MULTILINE)
    kept = {*PLAIN_UNITS, "fake-emulator", "hostile-emulator"}
    return [name for name in wanted if not re.match("tests/(unit|fuzz)/", name) or Path(name).name in kept]


def objects_in(folder):
    """How many objects a build folder holds, without the folders of other builds in it."""
    inner = {path.parent for path in folder.glob("*/build.ninja")}
    return sum(1 for path in folder.rglob("*.o") if not inner & set(path.parents))


def build(report, name, folder, *targets):
    status = run(["ninja", "-C", folder, "--quiet", *targets], 40 * MINUTE)
    count(report, name, status)
    report.objects = objects_in(folder)
    report.good = status == 0


def build_plain(report, chosen):
    if configure(BUILD, *TOGETHER):
        count(report, "build", 1)
        report.good = False
        return
    build(report, "build", BUILD, *targets_of(chosen))


def unit_targets(folder):
    """The unit programs, and what they start."""
    wanted = re.compile(r"(tests/unit/\S+/(?:unit|fake|hostile)-[^/:]+|tools/nixbuild-runner/nixbuild-runner): cpp_LINKER")
    known = subprocess.run(["ninja", "-C", folder, "-t", "targets", "all"], stdout=subprocess.PIPE, text=True)
    return wanted.findall(known.stdout)


# What a wrong pointer does, the address sanitizer reports too; these checks on every access are two thirds
# of the time that coroutines take to compile.
SANITIZERS = (
    "-g1 -fno-sanitize=null,vptr,object-size,pointer-overflow,alignment,nonnull-attribute,returns-nonnull-attribute"
)


def build_sanitized(report, lanes_free):
    status = configure(
        SANITIZED,
        "-Db_sanitize=address,undefined",
        "-Dbuildtype=debug",
        "-Doptimization=0",
        *TOGETHER,
        f"-Dcpp_args={SANITIZERS}",
        strict=False,  # g++ 12 warns falsely about what the sanitizers have put in
    )
    if status:
        count(report, "sanitized build", status)
        report.good = False
        return
    build(report, "sanitized build", SANITIZED, f"-j{lanes_free}", *unit_targets(SANITIZED))


def fetch(report):
    """What tests need beside packages: once, and while something else is compiled."""
    for what in ("kernel", "kernel-stock", "nix-2.8.0", "nix-2.26.3", "inputs", "sources"):
        peers.prepare(what)


def build_second(report):
    """The compiler that users have beside ours, over everything; no coroutine of its is run."""
    folder = BUILD / "clang"
    os.environ.update(CXX="clang++-14", CC="clang-14")
    status = run([REPOSITORY / "tests/support/install-packages", "clang"], 10 * MINUTE)
    options = ["-Dbuildtype=debug", "-Doptimization=0", "-Dcpp_args=-g1", "-Dbenchmarks=true", *TOGETHER]
    status = status or configure(folder, *options, strict=False) or run(["ninja", "-C", folder, "--quiet"], 40 * MINUTE)
    count(report, "build with clang", status)


# --- looking at sources ------------------------------------------------------------------------------


def lint(report, names):
    for name in names:
        arguments = [BUILD / "lint"] if name == "check_headers" else []
        count(report, f"lint {name}", run([REPOSITORY / "tests/lint" / name, *arguments], 10 * MINUTE))


def lints():
    every = sorted(path.name for path in (REPOSITORY / "tests/lint").glob("check_*") if not path.suffix)
    return [name for name in every if name != "check_headers"]


def tidy(report):
    count(report, "clang-tidy", configure(BUILD, *TOGETHER) or run([REPOSITORY / "tests/support/tidy", BUILD], 20 * MINUTE))


# --- unit programs -----------------------------------------------------------------------------------


def show_failures(file):
    try:
        for case in ElementTree.parse(file).iter("testcase"):
            for what in list(case.findall("failure")) + list(case.findall("error")):
                say(f"    {case.get('name')}: {what.get('message') or ''} {(what.text or '').strip()}"[:2000])
    except ElementTree.ParseError:
        say("    the report ends in the middle: the program died")


def run_unit(report, stage, folder, name, environment=None, choice=()):
    """Runs a unit program, and counts its cases."""
    program = next((path for path in (folder / "tests/unit").glob(f"*/{name}") if path.is_file()), None)
    if program is None:
        report.failed.append(f"{stage}: {name} was not built")
        return
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "report.xml"
        with open(Path(scratch) / "log", "wb") as output:
            status = run(
                [program, *choice, "-r", "junit", "-o", file], 15 * MINUTE, output=output, cwd=scratch,
                env={**os.environ, **(environment or {})},
            )  # fmt: skip
        count_junit(report, f"{stage} {name}", file, status)
        if report.failed:
            say((Path(scratch) / "log").read_text(errors="replace")[-8000:])
            if file.exists():
                show_failures(file)


# What the tests need must not be missing.
NEEDED = {"NIXBUILD_TEST_REQUIRE": "nix,mount,erofs"}
WITH_SANITIZERS = {
    "ASAN_OPTIONS": "detect_stack_use_after_return=1:strict_string_checks=1",
    "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    **NEEDED,
}


def run_machines(report):
    """The cases with machines are hidden from a run of the program by hand: they take a kernel."""
    kernel = {"NIXBUILD_TEST_KERNEL_DIR": str(peers.prepare("kernel"))}
    run_unit(report, "unit with machines", BUILD, "unit-sandbox", kernel, ["[vm]"])
    report.machines = len(report.cases)


def unit_names():
    """Every unit program, as the sources say: there may be no build yet."""
    texts = [path.read_text() for path in (REPOSITORY / "tests/unit").glob("*/meson.build")]
    return sorted({name for text in texts for name in re.findall(r"executable\('(unit-[a-z-]+)'", text)})


# --- functional tests --------------------------------------------------------------------------------

FUNCTIONAL = REPOSITORY / "tests/functional"
PROGRAMS = "test_programs.py"


def run_pytest(report, stage, file, timeout=40 * MINUTE, **surroundings):
    with tempfile.TemporaryDirectory() as scratch:
        xml, machines = Path(scratch) / "report.xml", Path(scratch) / "machines"
        status = run(
            [PYTHON, "-m", "pytest", "-p", "no:cacheprovider", "--tb=short", "-q", "--no-header", "--no-summary",
             "-rN", f"--junit-xml={xml}", FUNCTIONAL / file],
            timeout,
            output=open(Path(scratch) / "log", "wb"),
            env={**os.environ, "NIXBUILD_TEST_BUILD_DIR": str(BUILD), "PYTHONDONTWRITEBYTECODE": "1",
                 "NIXBUILD_TEST_MACHINES": str(machines), **surroundings},
        )  # fmt: skip
        count_junit(report, stage, xml, status)
        report.machines = sum(int(line) for line in machines.read_text().split()) if machines.exists() else 0
        if report.failed:
            show_failures(xml) if xml.exists() else None
            say((Path(scratch) / "log").read_text(errors="replace")[-4000:])


def functional_files():
    return sorted(path.name for path in FUNCTIONAL.glob("test_*.py") if path.name != PROGRAMS)


def run_lab(report):
    """tests/kvm: a machine in which KVM works, under emulation."""
    status = run([REPOSITORY / "tests/support/install-packages", "kvm"], 10 * MINUTE)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "report.xml"
        status = status or run(
            [REPOSITORY / "tests/kvm/run", "--build", BUILD, "--cache", peers.CACHE, "--junit", file], 60 * MINUTE
        )
        count_junit(report, "kvm", file, status)


# --- examples ----------------------------------------------------------------------------------------


def run_examples(report):
    """Builds the examples as an outsider does, against the installed library, and runs them."""
    source = REPOSITORY / "examples"
    installed = BUILD / "installed"
    folder = BUILD / "examples"
    for old in (installed, folder):
        shutil.rmtree(old, ignore_errors=True)
    status = run(
        ["meson", "install", "-C", BUILD, "--no-rebuild", "--quiet", "--destdir", installed], 5 * MINUTE
    )
    count(report, "install", status)
    packages = next(installed.rglob("*.pc"), None)
    if status or not packages:
        report.failed.append("installed pkg-config file")
        return
    environment = {
        **os.environ,
        "PKG_CONFIG_PATH": str(packages.parent),
        "PKG_CONFIG_SYSROOT_DIR": str(installed),
    }
    status = run(["meson", "setup", folder, source], 5 * MINUTE, env=environment, output=subprocess.DEVNULL) or run(
        ["ninja", "-C", folder, "--quiet", "-j1"], 15 * MINUTE, env=environment
    )
    count(report, "examples build", status)
    report.objects = objects_in(folder)
    if status == 0:
        environment["LD_LIBRARY_PATH"] = str(packages.parent.parent)
        environment["NIXBUILD_TEST_BUILD_DIR"] = str(BUILD)
        status = run(
            ["meson", "test", "-C", folder, "--print-errorlogs", "--quiet"], 15 * MINUTE, env=environment
        )
        count_meson(report, "example", folder, status)


# --- all of it ---------------------------------------------------------------------------------------

# What a plain tests/run has, and what a release has beside it.
STAGES = ("lint", "tidy", "unit", "examples", "sanitized", "functional", "programs")
MORE = ("kvm", "clang")


def jobs_of(chosen):
    """What is to be done. Jobs that compile come first; where nothing else is asked for, they have all lanes."""
    expected = spent.expectations()
    jobs = []

    def add(stage, name, act, *needs, first=0):
        jobs.append(Job(stage, name, act, needs, first or expected.get(name, 20.0)))

    if set(chosen) - {"lint"}:
        add("build", "build", lambda report: build_plain(report, chosen), first=10_000)
    if {"functional", "programs", "unit"} & set(chosen):
        add("build", "fetch", fetch, first=9_000)
    if "sanitized" in chosen:
        free = 1 if "functional" in chosen else processors()
        add("sanitized", "sanitized build", lambda report: build_sanitized(report, free), "build", first=8_000)
        for name in unit_names():
            act = lambda report, name=name: run_unit(report, "sanitized", SANITIZED, name, WITH_SANITIZERS)
            add("sanitized", f"sanitized {name}", act, "sanitized build")
    if "lint" in chosen:
        add("lint", "lints", lambda report: lint(report, lints()))
        add("lint", "headers", lambda report: lint(report, ["check_headers"]))
    if "tidy" in chosen:
        add("tidy", "tidy", tidy, "build")
    if "unit" in chosen:
        for name in PLAIN_UNITS if units_run_once(chosen) else unit_names():
            add("unit", name, lambda report, name=name: run_unit(report, "unit", BUILD, name, NEEDED), "build")
        add("unit", "machines", run_machines, "build", "fetch")
    if "examples" in chosen:
        add("examples", "examples", run_examples, "build")
    for name in functional_files() if "functional" in chosen else []:
        add("functional", name, lambda report, name=name: run_pytest(report, "functional", name), "build", "fetch")
    if "programs" in chosen:
        hours = 12 if "NIXBUILD_TEST_PROGRAMS" in os.environ else 1
        act = lambda report: run_pytest(report, "programs", PROGRAMS, hours * 60 * MINUTE)
        add("programs", PROGRAMS, act, "build", "fetch")
    if "kvm" in chosen:
        add("kvm", "lab", run_lab, "build")
    if "clang" in chosen:
        add("clang", "second compiler", build_second, "build")
    return jobs


def main():
    os.environ.setdefault("CCACHE_NOHASHDIR", "1")
    words = sys.argv[1:]
    unknown = [word for word in words if word not in (*STAGES, *MORE, "--fast", "--release")]
    if unknown:
        sys.exit(f"tests/run: unknown: {' '.join(unknown)}; stages are {' '.join(STAGES + MORE)}")
    every = [*STAGES, *MORE] if "--release" in words else list(STAGES)
    chosen = [word for word in words if word in STAGES + MORE] or every
    if "--fast" in words:
        chosen = [stage for stage in chosen if stage not in ("tidy", "sanitized", "programs")]
    release = "--release" in words
    if release:
        os.environ["NIXBUILD_TEST_RELEASE"] = "1"
    signal.signal(signal.SIGTERM, lanes.interrupted)
    run_of = spent.Run(whole=set(chosen) == set(STAGES) and not release)
    # Tests wait for much: one lane more than processors keeps these busy.
    side_by_side = processors() + 1
    done = lanes.run(jobs_of(chosen), side_by_side, say)
    over = run_of.tell(done, BUILD, side_by_side, say)
    failed = [name for _, report in done for name in report.failed] + over
    skipped = sum(len(report.skipped) for _, report in done)
    for name in failed:
        say(f"failed: {name}")
    tail = f", {skipped} skipped" if skipped else ""
    say(f"{sum(report.passed for _, report in done)} passed, {len(failed)} failed{tail}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
