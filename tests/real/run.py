#!/usr/bin/env python3
"""Drives an emulator through real guests and says what holds.

  tests/real/run.py target/release/ftemu                 every check that ftemu can be given
  tests/real/run.py target/release/ftemu cloud serial    these only
  tests/real/run.py qemu                                 the reference: are checks and guests right?
  tests/real/run.py --list

The guests come from disk-images/ (built when they are missing) in $FTEMU_GUESTS, by default
~/.cache/ftemu-guests. The ssh and session checks need root and iproute2 for a network namespace.
Each guest's console goes to a file in --work. REAL_TIMEOUT_FACTOR stretches all timeouts. Exit
status 1 when a check fails.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time

import debian_checks
import linux_checks
from console import Failure, Machine
from emulators import Ftemu, Qemu

HERE = os.path.dirname(os.path.realpath(__file__))

# name -> (check, guest it needs, whether it needs --record, whether it runs when none is named)
CHECKS = {
    "cloud": (linux_checks.cloud_kernel, "linux", False, True),
    "generic": (linux_checks.generic_kernel, "linux", False, True),
    "i386": (linux_checks.i386_kernel, "linux", False, True),
    "compatibility": (linux_checks.compatibility_mode, "linux", False, True),
    "lan": (linux_checks.lan_services, "linux", False, True),
    "time": (linux_checks.guest_time, "linux", False, True),
    "replay": (linux_checks.recorded_boot, "linux", True, True),
    "slices": (linux_checks.random_slices, "linux", True, False),
    "engines": (linux_checks.engines_agree, "linux", True, True),
    "engines-linux": (linux_checks.all_engines_agree, "linux", True, False),
    "engines-debian": (debian_checks.engines_agree, "debian", True, False),
    "idle-log": (linux_checks.idle_log, "linux", True, True),
    "serial": (debian_checks.serial_session, "debian", False, True),
    "ssh": (debian_checks.ssh_session, "debian", False, True),
    "session": (debian_checks.recorded_session, "debian", True, True),
    "drift": (linux_checks.clock_drift, "linux", False, False),
}


class Context:
    """What a check is given: the emulator, the guests' directory and a directory of its own."""

    def __init__(self, emulator, guests, work):
        self.emulator, self.guests, self.work = emulator, guests, work
        self.runs = 0
        self.check = "run"

    def start(self, argv):
        """Starts an emulator whose console is also written to a file."""
        self.runs += 1
        return Machine(
            argv, transcript=os.path.join(self.work, f"{self.check}-{self.runs}.console")
        )

    @staticmethod
    def host(argv):
        """Runs a command on this machine."""
        return subprocess.run(
            argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
        )


def build(guest, guests):
    """Builds a guest unless it is there (the scripts know)."""
    script = os.path.join(HERE, "..", "..", "disk-images", guest, "build.sh")
    subprocess.run(
        [script, os.path.join(guests, guest)],
        check=True,
        stdout=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("emulator", nargs="?", help="path of ftemu, or qemu")
    parser.add_argument("check", nargs="*", help="checks to run (default: all but the long ones)")
    parser.add_argument("--list", action="store_true", help="list the checks")
    parser.add_argument("--work", help="directory for consoles and logs (default: a temporary one)")
    parser.add_argument(
        "--option", action="append", default=[], help="an option for every run of the emulator"
    )
    given = parser.parse_intermixed_args()
    if given.list or not given.emulator:
        for name, (check, _, _, usual) in CHECKS.items():
            print(
                f"{name:14} {check.__doc__.splitlines()[0]}{'' if usual else ' (only when named)'}"
            )
        return 0
    unknown = [name for name in given.check if name not in CHECKS]
    if unknown:
        parser.error(f"no such check: {', '.join(unknown)} (see --list)")
    emulator = (
        Qemu(given.option)
        if given.emulator == "qemu"
        else Ftemu(os.path.realpath(given.emulator), given.option)
    )
    guests = os.environ.get("FTEMU_GUESTS") or os.path.expanduser("~/.cache/ftemu-guests")
    work = given.work or tempfile.mkdtemp(prefix="ftemu-real-")
    os.makedirs(work, exist_ok=True)
    context = Context(emulator, guests, work)
    failed = []
    for name in given.check or [name for name, entry in CHECKS.items() if entry[3]]:
        check, guest, records, _ = CHECKS[name]
        if records and not emulator.replays:
            print(f"{name:14} left out: {emulator.name} keeps no such log", flush=True)
            continue
        build(guest, guests)
        context.check = name
        begin = time.monotonic()
        try:
            note, verdict = check(context), "ok"
        except (Failure, OSError, subprocess.SubprocessError) as failure:
            note, verdict = str(failure), "FAILED"
            failed.append(name)
        print(f"{name:14} {verdict} ({time.monotonic() - begin:.0f} s): {note}", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}; the consoles are in {work}")
    elif not given.work:
        shutil.rmtree(work)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
