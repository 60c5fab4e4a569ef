#!/usr/bin/env python3
"""Kills, silences and divides a pair of real ftemu processes, and says what its clients saw.

  tests/failover/run.py target/release/ftemu                       the short ones, counter guest
  tests/failover/run.py target/release/ftemu --guest debian kills:100 silence:10 poweroff
  tests/failover/run.py target/release/ftemu --guest debian --bad netem:5 kills:3
  tests/failover/run.py target/release/ftemu --world lan kills:3 hang poweroff
  tests/failover/run.py --list

The world tap is three computers as network namespaces on a switch, with TAP devices; it needs root
(or user namespaces and /dev/net/tun) and iproute2, and nothing of it is seen or left outside. The
world lan is `ftemu lan` on this computer, without any rights. Scenarios run one after the other on
one pair, whose clients stay connected all through; a number after a colon says how often (or, with
netem, how many minutes). debian.img is looked for in $FTEMU_GUESTS/debian. Exit status 1 when
something did not hold, 77 when this computer cannot make the world.
"""

import argparse
import fcntl
import glob
import json
import os
import shutil
import sys
import tempfile
import threading
import time

import hosts
import scenarios
import wire
from sides import Failure
from worlds import LanWorld, TapWorld

SCENARIOS = {
    "control": (scenarios.control, 1),
    "kills": (scenarios.kills, 3),
    "silence": (scenarios.silence, 1),
    "hang": (scenarios.hang, 1),
    "partitions": (scenarios.partitions, 1),
    "joining": (scenarios.joining, 3),
    "strangers": (scenarios.strangers, 1),
    "netem": (scenarios.netem, 3),
    "poweroff": (scenarios.poweroff, 1),
}
PREFIX = "ftemu-failover-"
BAD = wire.Bad(delay_ms=5, jitter_ms=1, loss=0.01)


class Context:
    """What everything is given: the program, the guests' directory and a directory of its own;
    options for the sides of pairs, and options for all machines, those that are alone too."""

    def __init__(self, ftemu, work, options=(), always=()):
        self.ftemu, self.work = os.path.realpath(ftemu), work
        self.options, self.always = options, always
        home = os.path.expanduser("~/.cache/ftemu-guests")
        self.guests = os.environ.get("FTEMU_GUESTS") or home


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ftemu", nargs="?", help="path of ftemu")
    parser.add_argument("scenario", nargs="*", help="NAME or NAME:COUNT")
    parser.add_argument("--guest", choices=("counter", "debian"), default="counter")
    parser.add_argument("--world", choices=("tap", "lan"), default="tap")
    parser.add_argument("--bad", action="store_true", help=f"bad cables: {BAD}")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        help="an option for both sides, as --option=--force",
    )
    parser.add_argument("--limit", type=float, default=3600, help="seconds for all of it")
    parser.add_argument("--work", help="directory for images and messages")
    parser.add_argument("--json", help="write what was measured to this file")
    parser.add_argument("--list", action="store_true", help="list the scenarios")
    given = parser.parse_intermixed_args()
    chosen = [word.partition(":") for word in given.scenario or ["kills", "hang", "poweroff"]]
    if unknown := [name for name, _, _ in chosen if name not in SCENARIOS]:
        parser.error(f"no such scenario: {', '.join(unknown)} (see --list)")
    if len(chosen) > 1 and any(name == "control" for name, _, _ in chosen):
        parser.error("control stands alone: its machine has no pair")
    given.chosen = [
        (name, float(count) if "." in count else int(count or SCENARIOS[name][1]))
        for name, _, count in chosen
    ]
    return given


def limit(seconds):
    """Ends the whole run, whatever it hangs on."""

    def over():
        print(f"not done after {seconds:.0f} s", flush=True)
        os._exit(1)

    timer = threading.Timer(seconds, over)
    timer.daemon = True
    timer.start()


def place_to_work():
    """A new directory, locked while this run lives; those of killed runs are removed."""
    for path in glob.glob(os.path.join(tempfile.gettempdir(), PREFIX + "*")):
        try:
            with open(os.path.join(path, "lock"), "rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
        except OSError:
            pass  # its run is alive, or it was kept because something failed
    work = tempfile.mkdtemp(prefix=PREFIX)
    place_to_work.lock = open(os.path.join(work, "lock"), "wb")
    fcntl.flock(place_to_work.lock, fcntl.LOCK_EX)
    return work


def keep(work):
    """Leaves the messages for a person to read, without the images."""
    for path in glob.glob(os.path.join(work, "*.img")) + [os.path.join(work, "lock")]:
        if os.path.exists(path):
            os.remove(path)


def deliver(results, given, work):
    """Writes what was measured where it is wanted, and cleans up; returns the exit status."""
    if given.json:
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)
    if not given.work:
        shutil.rmtree(work)
    return 0


def play(given, world):
    """Runs the scenarios; returns what was measured and whether all held."""
    results = {"guest": given.guest, "world": given.world, "cable": str(BAD) if given.bad else ""}
    if given.chosen == [("control", 1)]:
        results["control"] = scenarios.control(world)
        print(f"control    ok: {json.dumps(results['control'])}", flush=True)
        return results
    results["first_joining"] = world.begin()
    print(f"begin      ok: {json.dumps(results['first_joining'])}", flush=True)
    for name, count in given.chosen:
        begin = time.monotonic()
        scenario = SCENARIOS[name][0]
        results[name] = scenario(world, count)
        took = time.monotonic() - begin
        print(f"{name:10} ok ({took:.0f} s): {json.dumps(results[name])}", flush=True)
    if world.clients:
        clients = world.disconnect()
        results["rounds"] = {client.name: client.rounds for client in clients}
        print(f"clients    ok: {json.dumps(results['rounds'])}", flush=True)
    return results


def main():
    given = arguments()
    if given.list or not given.ftemu:
        for name, (scenario, count) in SCENARIOS.items():
            print(f"{name + ':' + str(count):12} {' '.join(scenario.__doc__.split())}")
        return 0
    if given.world == "tap":
        if "FTEMU_SECLUDED" not in os.environ and (why := hosts.why_not()):
            print(f"left out: no namespaces with TAP devices here: {why}")
            return 77
        hosts.seclude()
    limit(given.limit)
    work = given.work or place_to_work()
    os.makedirs(work, exist_ok=True)
    context, world = Context(given.ftemu, work, given.option), None
    try:
        if given.world == "tap":
            world = TapWorld(context, given.guest, BAD if given.bad else None)
        else:
            world = LanWorld(context, given.guest)
        results = play(given, world)
    except (Failure, OSError, RuntimeError) as failure:
        print(f"FAILED: {type(failure).__name__}: {failure}\nmessages and consoles are in {work}")
        keep(work)
        return 1
    finally:
        if world:
            world.end()
    return deliver(results, given, work)


if __name__ == "__main__":
    sys.exit(main())
