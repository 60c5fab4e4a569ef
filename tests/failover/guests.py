"""The guests that the pair keeps alive, and the clients that watch each.

A guest has images (one for each host: own copies), the line that says that it is ready, prepare()
to set it up through its network, and clients(). Of its ports those `at_once` answer before that. `place` says where a port of the guest is reached:
a function from the port to (address, port).
"""

import contextlib
import hashlib
import os
import random
import shutil
import subprocess
import time

from clients import Counter, Downloads, Page, Redis, Ssh
from sides import Failure

HERE = os.path.dirname(os.path.realpath(__file__))
COUNTER = os.path.join(HERE, "..", "..", "disk-images", "counter", "counter.img")


def forget(image):
    """Removes the record of what lay at an image's path in an earlier run."""
    with contextlib.suppress(FileNotFoundError):
        os.remove(f"{image}.ftemu")


class CounterGuest:
    """The embedded guest: boots in an instant, counts on its disk."""

    name, memory, ready = "counter", "64M", "counter: ready"
    ports, at_once = (7777, 80), (7777, 80)

    def __init__(self, context):
        self.context = context

    def image(self, host):
        """A copy of the disk for a host."""
        path = os.path.join(self.context.work, f"counter-{host}.img")
        shutil.copyfile(COUNTER, path)
        forget(path)
        return [path]

    def prepare(self, place):
        """Nothing to set up."""

    def clients(self, place):
        """What watches it."""
        return [Counter(place(7777)), Page(place(80), "/", b"counter")]

    @staticmethod
    def power_off(side, _place):
        """Switches it off from inside."""
        side.type("poweroff\r")


class DebianGuest:
    """debian.img with redis (each write on the disk before its reply), sshd and nginx."""

    name, memory, ready = "debian", "512M", r"GUEST-READY [\d.]+"
    ports, at_once = (6379, 22, 80), (22, 80)

    def __init__(self, context):
        self.context = context
        self.folder = os.path.join(context.guests, "debian")

    def image(self, host):
        """A copy of the disk for a host, sparse as the original."""
        path = os.path.join(self.context.work, f"debian-{host}.img")
        subprocess.run(
            ["cp", "--sparse=always", os.path.join(self.folder, "debian.img"), path], check=True
        )
        forget(path)
        return [path]

    def ssh(self, place):
        """The command line of ssh into the guest, without a command."""
        address, port = place(22)
        options = {
            "BatchMode": "yes",
            "UserKnownHostsFile": os.path.join(self.folder, "known_hosts"),
            "HostKeyAlias": "10.0.2.15",
            "StrictHostKeyChecking": "yes",
            "ConnectTimeout": "60",
        }
        words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        key = os.path.join(self.folder, "ssh_key")
        return ["ssh", "-F", "none", "-i", key, *words, "-p", str(port), f"root@{address}"]

    def must(self, place, command, timeout=300, **options):
        """Runs a command in the guest; returns its output."""
        done = subprocess.run(
            [*self.ssh(place), command],
            capture_output=True,
            timeout=timeout,
            check=False,
            **({"stdin": subprocess.DEVNULL} if "input" not in options else {}),
            **options,
        )
        if done.returncode != 0:
            said = (done.stdout + done.stderr).decode("utf-8", "replace")
            raise Failure(f"{command!r} in the guest: {done.returncode}\n{said}")
        return done.stdout.decode("utf-8", "replace")

    def prepare(self, place):
        """redis for the network with every write synced; a file for the downloads."""
        blob = random.Random(1).randbytes(1_000_000)
        self.sha256 = hashlib.sha256(blob).hexdigest()
        settings = (
            "bind 0.0.0.0",
            "protected-mode no",
            'save ""',
            "appendonly yes",
            "appendfsync always",
            "auto-aof-rewrite-percentage 0",
        )
        sets = "; ".join(f"redis-cli config set {setting} | grep -q OK" for setting in settings)
        self.must(place, "set -e; " + sets)
        self.must(place, "cat >/var/www/html/blob; sync", input=blob)
        deadline = time.monotonic() + 120
        waits = "redis-cli info persistence | grep -q aof_rewrite_in_progress:0"
        while time.monotonic() < deadline:
            try:
                self.must(place, waits)
                return
            except Failure:
                time.sleep(1)
        raise Failure("redis does not begin its log")

    def clients(self, place):
        """What watches it."""
        return [
            Redis(place(6379)),
            Ssh(self.ssh(place)),
            Downloads(place(80), "/blob", self.sha256),
        ]

    def power_off(self, _side, place):
        """Switches it off from inside."""
        self.must(place, "systemctl poweroff --no-block")

    def timed(self, world, command, timeout=1800):
        """Runs a command in the guest; returns the seconds that it took, without the login."""
        script = f"echo begin; {command} >/dev/null 2>&1 || exit 1; echo end"
        argv = [*self.ssh(world.place), script]
        times, deadline = {}, time.monotonic() + timeout
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        try:
            for line in child.stdout:
                times[line.strip()] = time.monotonic()
                if b"end" in times or time.monotonic() > deadline:
                    break
        finally:
            child.kill()
            child.wait()
            child.stdout.close()
        if b"end" not in times or b"begin" not in times:
            raise Failure(f"{command!r} printed {sorted(times)} only")
        return times[b"end"] - times[b"begin"]


class LinuxGuest:
    """A small Linux with busybox, for measurements: no disk, a shell on the serial line, up in
    seconds."""

    name, memory, ready = "linux", "256M", "GUEST-READY"
    ports = at_once = ()

    def __init__(self, context):
        self.context, self.count = context, 0

    def image(self, _host):
        """A kernel and an initrd instead of a disk."""
        kernel = os.path.join(self.context.guests, "small-kernel", "vmlinuz-small")
        initrd = os.path.join(self.context.guests, "linux", "initrd.gz")
        words = "console=ttyS0 panic=-1 quiet"
        return ["--kernel", kernel, "--initrd", initrd, "--append", words]

    def prepare(self, world):
        """Its address."""
        side = world.pair.side(world.pair.live)
        side.printed("# ", 60)
        side.type("stty -echo; export PS1=\n")
        self.timed(world, "ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up", 60)

    def timed(self, world, command, timeout=1800):
        """Runs a command in the guest; returns the seconds between its begin and its end."""
        self.count += 1
        side, mark = world.pair.side(world.pair.live), f"{os.getpid()}-{self.count}"
        side.type(f"echo be''gin-{mark}-; {command} && echo e''nd-{mark}-\n")
        side.printed(f"begin-{mark}-", 60, 0.002)
        begin = time.monotonic()
        side.printed(f"end-{mark}-", timeout, 0.002)
        return time.monotonic() - begin


GUESTS = {"counter": CounterGuest, "debian": DebianGuest}
MEASURED = {"linux": LinuxGuest, "debian": DebianGuest}
