"""What the lints look at: the repository's own files, and C++ text without comments and literals."""

import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
LITERAL = re.compile(
    r'//[^\n]*|/\*.*?\*/|R"(\w*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"|(?<![0-9A-Fa-f])\'(?:\\.|[^\'\\\n])+\'', re.S
)


def own_files():
    """Paths, relative to the repository, of all files that are or would be committed."""
    listed = subprocess.run(
        ["git", "-c", f"safe.directory={REPOSITORY}", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    if listed.returncode == 0:
        names = [name for name in listed.stdout.split("\0") if name]
    else:  # an unpacked archive
        names = [
            str(path.relative_to(REPOSITORY))
            for path in REPOSITORY.rglob("*")
            if not str(path.relative_to(REPOSITORY)).startswith(("build", ".git/"))
        ]
    return sorted(name for name in names if (REPOSITORY / name).is_file())


def cpp_files():
    return [name for name in own_files() if name.endswith((".cpp", ".hpp"))]


def read(name):
    return (REPOSITORY / name).read_text(encoding="utf-8", errors="replace")


def bare(text):
    """The text with comments and literals blanked, every line and column where it was."""

    def blank(match):
        found = match.group(0)
        kept = '"' if not found.startswith("/") else " "
        return "".join(c if c == "\n" else " " for c in found[:-1]) + (kept if found[-1] != "\n" else "\n")

    return LITERAL.sub(blank, text)


def line_of(text, position):
    return text.count("\n", 0, position) + 1


def finish(problems, warnings=()):
    for warning in warnings:
        print(f"warning: {warning}")
    for problem in problems:
        print(problem)
    sys.exit(1 if problems else 0)
