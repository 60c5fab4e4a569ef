#!/usr/bin/env python3
"""Counts the host's instructions for each of the guest's, by callgrind: a figure that does not
drift with the machine's load.

  tests/bench/run.py target/fast/bench              all workloads on both engines, against expected.json
  tests/bench/run.py target/fast/bench alu memory   these only
  tests/bench/run.py target/fast/bench --save       makes the figures the expected ones

Each figure is the difference of two lengths of the same run, so that the start does not count. Exit
status 1 when a figure is over its expected one by more than a quarter. Takes about a minute; needs
valgrind.
"""

import argparse
import concurrent.futures
import json
import os
import re
import subprocess
import sys

HERE = os.path.dirname(os.path.realpath(__file__))
EXPECTED = os.path.join(HERE, "expected.json")
ENGINES = ("interpreter", "jit")
# Guest instructions of the two lengths.
SHORT, LONG = 100_000, 400_000
# A figure may be so much over the expected one.
TOLERANCE = 1.25


def host_instructions(program, workload, engine, count):
    """What callgrind counts for a run."""
    done = subprocess.run(
        [
            *("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"),
            *("--smc-check=all", program, workload, engine, str(count)),
        ],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or not found:
        raise SystemExit(f"{workload} on the {engine}: {done.stderr[-2000:]}")
    return int(found[1])


def ratio(program, workload, engine):
    """Host instructions for one of the guest's."""
    short, long = (host_instructions(program, workload, engine, n) for n in (SHORT, LONG))
    return (long - short) / (LONG - SHORT)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("program", help="path of bench")
    parser.add_argument("workload", nargs="*", help="workloads (default: all)")
    parser.add_argument("--save", action="store_true", help="write expected.json")
    given = parser.parse_args()
    program = os.path.realpath(given.program)
    known = subprocess.run([program], capture_output=True, text=True, check=True).stdout.split()
    workloads = given.workload or known
    unknown = [name for name in workloads if name not in known]
    if unknown:
        parser.error(f"no such workload: {', '.join(unknown)}")
    pairs = [(workload, engine) for workload in workloads for engine in ENGINES]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        ratios = list(pool.map(lambda pair: ratio(program, *pair), pairs))
    found = {}
    for (workload, engine), value in zip(pairs, ratios):
        found.setdefault(workload, {})[engine] = round(value, 2)
    with open(EXPECTED, encoding="utf-8") as file:
        expected = json.load(file)
    if given.save:
        with open(EXPECTED, "w", encoding="utf-8") as file:
            json.dump({**expected, **found}, file, indent=2)
            file.write("\n")
    slower = []
    print(f"{'workload':10}" + "".join(f"{engine:>14}{'expected':>10}" for engine in ENGINES))
    for workload, figures in found.items():
        line = f"{workload:10}"
        for engine, value in figures.items():
            want = expected.get(workload, {}).get(engine)
            line += f"{value:14.2f}{'-' if want is None else f'{want:.2f}':>10}"
            if want is not None and value > want * TOLERANCE and not given.save:
                slower.append(f"{workload} on the {engine}: {value:.2f} instead of {want:.2f}")
        print(line)
    for line in slower:
        print(f"too many host instructions: {line}")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
