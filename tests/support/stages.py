"""The stages of tests/run: build, lint, tidy, unit, examples, sanitized, functional, programs.

Each test of each stage is counted once; the last line printed is `N passed, N failed`, with
`, N skipped` behind it when something was skipped.
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
from concurrent import futures
from pathlib import Path

import peers

REPOSITORY = Path(__file__).resolve().parent.parent.parent
BUILD = Path(os.environ.get("NIXBUILD_TEST_BUILD_DIR", REPOSITORY / "build"))
PYTHON = "/usr/bin/python3"
SKIPPED = 77
MINUTE = 60

passed, failed, skipped = 0, [], []


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


def count(name, status):
    global passed
    if status == 0:
        passed += 1
    elif status == SKIPPED:
        skipped.append(name)
        say(f"skipped: {name}")
    else:
        failed.append(name)
        say(f"FAILED: {name} (exit status {status})")


def count_junit(stage, file, status):
    """Counts the cases of a JUnit file; a program that ended badly without one is one failure."""
    global passed
    try:
        cases = list(ElementTree.parse(file).iter("testcase"))
    except (ElementTree.ParseError, OSError):
        failed.append(stage)
        say(f"FAILED: {stage} left no report (exit status {status})")
        return
    bad = 0
    for case in cases:
        name = f"{stage}: {case.get('classname', '')} {case.get('name', '')}"
        if case.find("failure") is not None or case.find("error") is not None:
            bad += 1
            failed.append(name)
            say(f"FAILED: {name}")
        elif case.find("skipped") is not None:
            skipped.append(name)
        else:
            passed += 1
    if status not in (0, 5) and not bad or status == 5:
        failed.append(stage)
        say(f"FAILED: {stage} ended with {status}")


def count_meson(stage, folder, status):
    """Counts what `meson test` has run."""
    try:
        lines = (folder / "meson-logs/testlog.json").read_text().splitlines()
    except OSError:
        lines = []
    results = {"OK": 0, "SKIP": SKIPPED}
    for line in lines:
        record = json.loads(line)
        count(f"{stage} {record['name']}", results.get(record["result"], 1))
    if not lines:
        count(f"{stage}: no test ran", status or 1)


def processors():
    return len(os.sched_getaffinity(0))


def compiler_is_ours():
    """Whether the compiler is the one that warnings are kept at zero for."""
    version = subprocess.run(["g++", "-dumpversion"], stdout=subprocess.PIPE, text=True).stdout
    return version.strip().split(".")[0] == "12"


def configure(folder, *options, strict=True):
    if (folder / "build.ninja").exists():
        return 0
    errors = ["-Dwerror=true"] if strict and compiler_is_ours() else []
    return run(["meson", "setup", "--wrap-mode=nodownload", folder, *errors, *options], 5 * MINUTE)


# What a coroutine costs to compile is mostly the same for all of them: several sources at once. A folder
# that is there already, a developer's own, is used as it was configured.
TOGETHER = ["-Dunity=on", "-Dunity_size=5"]


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
    kept = {*PLAIN_UNITS, "fake-emulator"}
    return [name for name in wanted if not re.match("tests/(unit|fuzz)/", name) or Path(name).name in kept]


def stage_build(chosen):
    BUILD.mkdir(exist_ok=True)
    status = configure(BUILD, *TOGETHER) or run(
        ["ninja", "-C", BUILD, "--quiet", *targets_of(chosen)], 40 * MINUTE
    )
    count("build", status)
    return status == 0


def stage_lint(chosen):
    for lint in sorted((REPOSITORY / "tests/lint").glob("check_*")):
        if lint.suffix:
            continue
        arguments = [BUILD / "lint"] if lint.name == "check_headers" else []
        count(f"lint {lint.name}", run([lint, *arguments], 10 * MINUTE))


def stage_tidy(chosen):
    """Source by source, as a folder says that does not compile several at once."""
    folder = BUILD / "single"
    status = configure(folder) or run([REPOSITORY / "tests/support/tidy", folder], 20 * MINUTE)
    count("clang-tidy", status)


def unit_programs(folder, names=None):
    return sorted(
        path
        for path in (folder / "tests/unit").glob("*/unit-*")
        if path.is_file() and os.access(path, os.X_OK) and (names is None or path.name in names)
    )


def run_units(folder, stage, timeout, environment=None, choice=(), side=1, names=None):
    """Runs the unit programs, `side` of them at a time, and counts their cases."""
    programs = unit_programs(folder, names)
    if not programs:
        failed.append(f"{stage}: no unit test program was built")

    def run_one(program, scratch):
        started = time.monotonic()
        with open(scratch / "log", "wb") as output:
            status = run(
                [program, *choice, "-r", "junit", "-o", scratch / "report.xml"],
                timeout,
                output=output,
                cwd=scratch,
                env={**os.environ, **(environment or {})},
            )
        return status, time.monotonic() - started

    with tempfile.TemporaryDirectory() as scratch, futures.ThreadPoolExecutor(side) as pool:
        running = []
        for program in programs:
            own = Path(scratch) / program.name
            own.mkdir()
            running.append((program, own, pool.submit(run_one, program, own)))
        for program, own, done in running:
            status, seconds = done.result()
            name = f"{stage} {program.name}"
            before = len(failed)
            count_junit(name, own / "report.xml", status)
            if len(failed) > before:
                say((own / "log").read_text(errors="replace")[-8000:])
                if (own / "report.xml").exists():
                    show_failures(own / "report.xml")
            say(f"  {name}: {seconds:.1f} s")


def show_failures(report):
    try:
        for case in ElementTree.parse(report).iter("testcase"):
            for what in list(case.findall("failure")) + list(case.findall("error")):
                say(f"    {case.get('name')}: {what.get('message') or ''} {(what.text or '').strip()}"[:2000])
    except ElementTree.ParseError:
        say("    the report ends in the middle: the program died")


# What the tests need must not be missing.
NEEDED = {"NIXBUILD_TEST_REQUIRE": "nix,mount,erofs"}


def stage_unit(chosen):
    """The cases with machines are hidden from a run of the program by hand: they take a kernel."""
    names = PLAIN_UNITS if units_run_once(chosen) else None
    run_units(BUILD, "unit", 15 * MINUTE, NEEDED, side=processors(), names=names)
    kernel = peers.prepare("kernel")
    run_units(
        BUILD,
        "unit with machines",
        15 * MINUTE,
        {"NIXBUILD_TEST_KERNEL_DIR": str(kernel)},
        ["[vm]"],
        names=["unit-sandbox"],
    )


def unit_targets(folder):
    """The unit programs, and what they start."""
    wanted = re.compile(r"(tests/unit/\S+/(?:unit|fake)-[^/:]+|tools/nixbuild-runner/nixbuild-runner): cpp_LINKER")
    known = subprocess.run(["ninja", "-C", folder, "-t", "targets", "all"], stdout=subprocess.PIPE, text=True)
    return wanted.findall(known.stdout)


def stage_sanitized(chosen):
    folder = BUILD / "sanitized"
    status = configure(
        folder,
        "-Db_sanitize=address,undefined",
        "-Dbuildtype=debug",
        "-Doptimization=1",
        *TOGETHER,
        # What a wrong pointer does, the address sanitizer reports too; these checks on every
        # access are two thirds of the time that coroutines take to compile.
        "-Dcpp_args=-g1 -fno-sanitize=null,vptr,object-size,pointer-overflow,alignment,"
        "nonnull-attribute,returns-nonnull-attribute",
        strict=False,  # g++ 12 warns falsely about what the sanitizers have put in
    ) or run(["ninja", "-C", folder, "--quiet", *unit_targets(folder)], 40 * MINUTE)
    count("sanitized build", status)
    if status == 0:
        run_units(
            folder,
            "sanitized",
            15 * MINUTE,
            {
                "ASAN_OPTIONS": "detect_stack_use_after_return=1:strict_string_checks=1",
                "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
                **NEEDED,
            },
            side=processors(),
        )


def lanes():
    """How many files of tests run side by side: a machine under emulation keeps one processor busy."""
    there = subprocess.run([PYTHON, "-c", "import xdist"], stderr=subprocess.DEVNULL).returncode == 0
    return min(processors(), 4) if there else 1


def run_pytest(stage, timeout, *files):
    side = lanes()
    side_by_side = ["-n", str(side), "--dist", "loadfile"] if side > 1 and len(files) > 1 else []
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        status = run(
            [PYTHON, "-m", "pytest", "-p", "no:cacheprovider", "--tb=short", "--durations=12", "-q", *side_by_side,
             f"--junit-xml={report}", *files],
            timeout,
            env={**os.environ, "NIXBUILD_TEST_BUILD_DIR": str(BUILD), "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
        count_junit(stage, report, status)


PROGRAMS = REPOSITORY / "tests/functional/test_programs.py"
LONG = [PROGRAMS.name, "test_derivations.py", "test_recursive.py", "test_limits.py", "test_scenarios.py", "test_big.py"]  # begin with these


def functional_files():
    files = set((REPOSITORY / "tests/functional").glob("test_*.py")) - {PROGRAMS}
    return sorted(files, key=lambda file: (file.name not in LONG, file.name))


def stage_functional(chosen):
    """With the programs, if they are chosen too: side by side they take no time of their own."""
    more = [PROGRAMS] if "programs" in chosen else []
    run_pytest("functional", 60 * MINUTE, *more, *functional_files())


def stage_programs(chosen):
    if "functional" not in chosen:
        larger = "NIXBUILD_TEST_PROGRAMS" in os.environ  # hours, as CONTRIBUTING.md says
        run_pytest("programs", (12 * 60 if larger else 30) * MINUTE, PROGRAMS)


def stage_examples(chosen):
    """Builds the examples as an outsider does, against the installed library, and runs them."""
    source = REPOSITORY / "examples"
    if not (source / "meson.build").exists():
        say("skipped: there are no example programs yet")
        skipped.append("examples")
        return
    installed = BUILD / "installed"
    folder = BUILD / "examples"
    for old in (installed, folder):
        shutil.rmtree(old, ignore_errors=True)
    status = run(
        ["meson", "install", "-C", BUILD, "--no-rebuild", "--quiet", "--destdir", installed], 5 * MINUTE
    )
    count("install", status)
    packages = next(installed.rglob("*.pc"), None)
    if status or not packages:
        failed.append("installed pkg-config file")
        return
    environment = {
        **os.environ,
        "PKG_CONFIG_PATH": str(packages.parent),
        "PKG_CONFIG_SYSROOT_DIR": str(installed),
    }
    status = run(["meson", "setup", folder, source], 5 * MINUTE, env=environment) or run(
        ["ninja", "-C", folder, "--quiet"], 15 * MINUTE, env=environment
    )
    count("examples build", status)
    if status == 0:
        environment["LD_LIBRARY_PATH"] = str(packages.parent.parent)
        environment["NIXBUILD_TEST_BUILD_DIR"] = str(BUILD)
        status = run(["meson", "test", "-C", folder, "--print-errorlogs"], 15 * MINUTE, env=environment)
        count_meson("example", folder, status)


STAGES = {
    "lint": stage_lint,
    "tidy": stage_tidy,
    "unit": stage_unit,
    "examples": stage_examples,
    "sanitized": stage_sanitized,
    "functional": stage_functional,
    "programs": stage_programs,
}


def main():
    os.environ.setdefault("CCACHE_NOHASHDIR", "1")
    words = sys.argv[1:]
    chosen = [word for word in words if word in STAGES] or list(STAGES)
    unknown = [word for word in words if word not in STAGES and word != "--fast"]
    if unknown:
        sys.exit(f"tests/run: unknown: {' '.join(unknown)}; stages are {' '.join(STAGES)}")
    if "--fast" in words:
        chosen = [stage for stage in chosen if stage not in ("tidy", "sanitized", "programs")]
    times = {}
    started = time.monotonic()
    good = stage_build(chosen) if chosen != ["lint"] else True
    times["build"] = time.monotonic() - started
    for stage, act in STAGES.items():
        if stage not in chosen or not good and stage != "lint":
            continue
        say(f"== {stage}")
        started = time.monotonic()
        act(chosen)
        times[stage] = time.monotonic() - started
    say("== time: " + ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in times.items()))
    for name in failed:
        say(f"failed: {name}")
    tail = f", {len(skipped)} skipped" if skipped else ""
    say(f"{passed} passed, {len(failed)} failed{tail}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
