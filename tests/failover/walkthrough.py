#!/usr/bin/env python3
"""Does what docs/two-laptops.md says, on computers that are network namespaces.

  tests/failover/walkthrough.py target/release/ftemu                 with the counter guest
  tests/failover/walkthrough.py target/release/ftemu --guest debian

A block of commands in the document is run when a comment before it says where, as in
`<!-- run: a -->`. Words after the host: `stays` (the command goes on; it is known by the word after
`ftemu`), `listens PORT` (until somebody answers there), `dies WORD` and `ends HOST WORD` (the
command of that word is killed; it ends by itself with status 0), `guest NAME` (only with that
guest), `hears HOST WORD PATTERN` (until the command of that word there says that, from now on), and
at the end `says PATTERN [as CODE]` (until that appears; what matched replaces CODE in later
blocks). A copy, as in `<!-- copy: pair.key w a b -->`, brings a file from one host to others as the
block below it does. The hosts a, b, w and c (any other computer of the LAN) have the addresses that
the document uses, a directory each, and a copy of the image as disk.img. Exit status 1 at the first
step that fails, 77 when this computer cannot make namespaces.
"""

import argparse
import os
import re
import shutil
import socket
import subprocess
import sys
import time

import hosts
from guests import GUESTS
from run import Context, keep, limit, place_to_work
from sides import Failure

HERE = os.path.dirname(os.path.realpath(__file__))
DOCUMENT = os.path.join(HERE, "..", "..", "docs", "two-laptops.md")
STEP = re.compile(r"<!-- (run|copy): (\S+)(.*?) -->\n+```\w*\n(.*?)```", re.DOTALL)
ADDRESSES = {"a": "192.168.1.11", "b": "192.168.1.12", "w": "192.168.1.13"}
SECONDS = 300


class Walk:
    """The computers, and what runs on them."""

    def __init__(self, context, guest):
        self.context, self.guest = context, GUESTS[guest](context)
        lan = hosts.Lan("192.168.1.2/24")
        self.hosts = {name: lan.host(name, address) for name, address in ADDRESSES.items()}
        self.running, self.said, self.found, self.count = {}, {}, {}, 0
        for name in (*ADDRESSES, "c"):
            self.folder(name)

    def folder(self, name):
        """A host's directory, with the image in it."""
        path = os.path.join(self.context.work, name)
        if not os.path.isdir(path):
            os.makedirs(path)
            if name in "ab":
                shutil.move(self.guest.image(name)[0], os.path.join(path, "disk.img"))
        return path

    def copy(self, name, source, *hosts_):
        """Brings a file to other hosts."""
        for host in hosts_:
            shutil.copy(os.path.join(self.folder(source), name), self.folder(host))

    def step(self, host, words, command):
        """Runs one block."""
        for code, text in self.found.items():
            command = re.sub(rf"\b{code}\b", text, command)
        self.count += 1
        said = os.path.join(self.context.work, f"{self.count:02}-{host}.said")
        path = os.path.dirname(self.context.ftemu) + ":" + os.environ["PATH"]
        argv = ["bash", "-ec", command.replace("$ ", "")]
        with open(said, "wb") as output:
            child = subprocess.Popen(
                self.hosts[host].argv(argv) if host in self.hosts else argv,
                cwd=self.folder(host),
                env={**os.environ, "PATH": path, "HOME": self.folder(host), "TERM": "dumb"},
                stdin=subprocess.PIPE if "stays" in words else subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        kind = re.search(r"ftemu (\w+)", command)
        if "stays" in words:
            self.running[host, kind[1]], self.said[host, kind[1]] = child, said
        self.wait(child, said, words)
        if port := re.search(r"listens (\d+)", words):
            self.listening(ADDRESSES[host], int(port[1]))

    @staticmethod
    def listening(address, port):
        """Waits until somebody answers on a port."""
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection((address, port), timeout=1).close()
                return
            except OSError as error:
                if time.monotonic() > deadline:
                    raise Failure(f"port {port}: {error}") from None
                time.sleep(0.05)

    def wait(self, child, said, words):
        """Waits for what the step should say, or for its end."""
        wanted = re.search(r"says (.+?)(?: as (\w+))?$", words)
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            with open(said, encoding="utf-8", errors="replace") as file:
                text = file.read()
            match = re.search(wanted[1], text) if wanted else None
            if match and wanted[2]:
                self.found[wanted[2]] = match[match.lastindex or 0]
            ended = child.poll()
            if ended not in (None, 0):
                raise Failure(f"status {ended}: {text[-1500:]}")
            if ("stays" in words or ended == 0) and (match or not wanted):
                return
            if ended == 0:
                break
            time.sleep(0.05)
        raise Failure(f"it said: {text[-1500:]}")

    def position(self, host, kind):
        """How much the command of that kind on that host has said."""
        return os.path.getsize(self.said[host, kind])

    def hears(self, host, kind, pattern, position):
        """Waits until the command of that kind on that host says something from there on."""
        deadline = time.monotonic() + SECONDS
        while True:
            with open(self.said[host, kind], "rb") as file:
                file.seek(position)
                text = file.read().decode("utf-8", "replace")
            if re.search(pattern, text):
                return
            if time.monotonic() > deadline:
                raise Failure(f"no {pattern!r} from ftemu {kind} on {host}: {text[-1500:]}")
            time.sleep(0.05)

    def ended(self, host, kind):
        """The command of that kind on that host ends with status 0."""
        status = self.running.pop((host, kind)).wait(SECONDS)
        if status != 0:
            raise Failure(f"ftemu {kind} on {host} ended with {status}")

    def killed(self, host, kind):
        """The command of that kind on that host dies."""
        child = self.running.pop((host, kind))
        child.kill()
        child.wait()

    def end(self):
        """Kills what is left."""
        for child in self.running.values():
            child.kill()
            child.wait()


def walk(context, guest):
    """Every step of the document in order."""
    with open(DOCUMENT, encoding="utf-8") as file:
        steps = STEP.findall(file.read())
    if len(steps) < 8:
        raise Failure(f"only {len(steps)} steps in the document")
    journey = Walk(context, guest)
    try:
        for kind, host, words, command in steps:
            if kind == "copy":
                journey.copy(host, *words.split())
                continue
            if (only := re.search(r"guest (\w+)", words)) and only[1] != guest:
                continue
            begin = time.monotonic()
            heard = [
                (other, kind, pattern, journey.position(other, kind))
                for other, kind, pattern in re.findall(r"hears (\w) (\w+) (\S+)", words)
            ]
            shown = command.strip().splitlines()[0]
            try:
                if dies := re.search(r"dies (\w+)", words):
                    journey.killed(host, dies[1])
                else:
                    journey.step(host, words.strip(), command)
                for words_heard in heard:
                    journey.hears(*words_heard)
                for other, kind in re.findall(r"ends (\w) (\w+)", words):
                    journey.ended(other, kind)
            except (Failure, subprocess.TimeoutExpired) as failure:
                raise Failure(f"on {host}, {shown!r}: {failure}") from None
            print(f"{host} ok ({time.monotonic() - begin:.1f} s): {shown}", flush=True)
    finally:
        journey.end()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ftemu", help="path of ftemu")
    parser.add_argument("--guest", choices=GUESTS, default="counter")
    parser.add_argument("--limit", type=float, default=1800, help="seconds for all of it")
    given = parser.parse_args()
    if "FTEMU_SECLUDED" not in os.environ and (why := hosts.why_not()):
        print(f"left out: no namespaces with TAP devices here: {why}")
        return 77
    hosts.seclude()
    limit(given.limit)
    work = place_to_work()
    try:
        walk(Context(given.ftemu, work), given.guest)
    except Failure as failure:
        print(f"FAILED {failure}\nwhat was said is in {work}")
        keep(work)
        return 1
    shutil.rmtree(work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
