"""Runs a server between a client's pipes and counts turns: how often the client spoke again after it was answered.

    turns.py FILE COMMAND…

Appends one line to FILE when the session has ended: the number of turns, one more than what the client
waited for before it went on.
"""

import os
import select
import subprocess
import sys


def main():
    count_file, *command = sys.argv[1:]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    to_server, from_server = server.stdin.fileno(), server.stdout.fileno()
    turns = 0
    answered = True
    open_ends = {0: to_server, from_server: 1}
    while from_server in open_ends:
        # What the server has said comes first: a client that spoke meanwhile has not waited for it.
        for end in sorted(select.select(list(open_ends), [], [])[0], reverse=True):
            piece = os.read(end, 1 << 20)
            if not piece:
                if end == 0:
                    os.close(to_server)
                del open_ends[end]
                continue
            if end == 0:
                turns += answered
                answered = False
            else:
                answered = True
            try:
                while piece:
                    piece = piece[os.write(open_ends[end], piece) :]
            except BrokenPipeError:
                del open_ends[end]
    with open(count_file, "a") as file:
        file.write(f"{turns}\n")
    sys.exit(server.wait())


if __name__ == "__main__":
    main()
