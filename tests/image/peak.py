"""Runs a command, and says last how much memory it and all that it started had at once, at most.

    peak.py COMMAND [ARGUMENT …]

Four times a second the proportional set sizes are summed: what processes share counts once. The largest process's
figure is the kernel's own. The page cache is not in it, for what is cached can be given back.
"""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

PERIOD_S = 0.25
GB_PER_KB = 1024 / 1e9  # the kernel says kB and means 1024 bytes


def descendants(ancestor: int) -> list[int]:
    """Processes that `ancestor` started, and those that they started, as of now."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                # behind the name, which may contain anything
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue  # ended meanwhile
            children.setdefault(parent, []).append(int(entry.name))
    found = [ancestor]
    for pid in found:
        found += children.get(pid, [])
    return found[1:]


def proportional_kb(pid: int) -> int:
    """The process's memory; 0 if it has ended meanwhile."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def main() -> int:
    command = subprocess.Popen(sys.argv[1:])
    most_kb = 0
    while command.poll() is None:
        most_kb = max(most_kb, sum(map(proportional_kb, descendants(os.getpid()))))
        time.sleep(PERIOD_S)
    largest_kb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(f"{most_kb * GB_PER_KB:.2f} GB of memory at most, {largest_kb * GB_PER_KB:.2f} GB the largest process", flush=True)
    return command.returncode


sys.exit(main())
