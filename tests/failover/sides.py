"""The two sides of a pair as processes: start, status, kill, wait for protection, join again.

A Side is one `ftemu boot` on one host; its console goes to a file, what is typed goes to its
standard input. A Pair is the two of them: which one is live, and the moments of its life.
"""

import json
import os
import re
import signal
import socket
import subprocess
import time

PORT = 7070
# Roles in which a side's machine is live and its outputs leave.
LIVE = ("primary", "solo")
# What it tells its user when its role changes.
TOLD = {
    "protected: ": "primary",
    "the backup is lost": "claiming",
    "the primary is lost": "taking over",
    "on its own, ": "solo",
    "live, in epoch ": "solo",
}
TRANSFER = re.compile(r"transfer: (\d+) ms, (\d+) rounds, (\d+) bytes; .* still for (\d+) ms")


class Failure(Exception):
    """A check that did not hold, with what was seen instead."""


def key_file(folder, name, key):
    """Makes a file with a key, unless it is there; returns its path."""
    path = os.path.join(folder, name)
    if not os.path.exists(path):
        with open(path, "w", encoding="ascii") as file:
            os.chmod(path, 0o600)
            file.write(key.hex() + "\n")
    return path


class Here:
    """This very computer as a host: for pairs that need neither root nor namespaces. The two
    sides differ by their ports."""

    def __init__(self, name, port):
        self.name, self.address, self.port_number = name, "127.0.0.1", port

    @staticmethod
    def argv(argv):
        """The command line that runs argv on this computer."""
        return argv


class Side:
    """One process, from its start to its end."""

    started = 0

    def __init__(self, context, host, argv, first="solo"):
        Side.started += 1
        self.first = first
        stem = os.path.join(context.work, f"{Side.started:03}-{host.name}")
        self.host, self.console, self.messages = host, f"{stem}.console", f"{stem}.messages"
        self.control = f"{stem}.control"
        self.ftemu = context.ftemu
        argv = [word.replace("{control}", self.control).replace("{stem}", stem) for word in argv]
        with open(self.console, "wb") as console, open(self.messages, "wb") as messages:
            messages.write((" ".join(argv) + "\n").encode())
            messages.flush()
            self.child = subprocess.Popen(
                host.argv(argv),
                stdin=subprocess.PIPE,
                stdout=console,
                stderr=messages,
                env={**os.environ, "FTEMU_LOG": "info"},
            )
        self.since = time.monotonic()

    def tail(self):
        """The end of what it said, for messages."""
        parts = []
        for path in (self.messages, self.console):
            with open(path, "rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - 1200))
                parts.append(file.read().decode("utf-8", "replace").replace("\r", ""))
        return f"--- {self.messages}:\n" + "\n--- console:\n".join(parts)

    def message(self):
        """The last line that it said to its user."""
        with open(self.messages, encoding="utf-8", errors="replace") as file:
            lines = file.read().strip().splitlines()[1:]
        return lines[-1] if lines else ""

    def transfers(self):
        """What it told of each backup that joined it: ms, rounds, bytes, and ms of standstill."""
        with open(self.messages, encoding="utf-8", errors="replace") as file:
            return [[int(number) for number in found] for found in TRANSFER.findall(file.read())]

    def printed(self, pattern, timeout, pause=0.05):
        """Waits until pattern stands on the console, looking every pause seconds; returns the
        match."""
        deadline = time.monotonic() + timeout
        while True:
            with open(self.console, "rb") as file:
                match = re.search(pattern.encode(), file.read(), re.DOTALL)
            if match:
                return match
            if self.child.poll() is not None or time.monotonic() > deadline:
                ended = self.child.poll()
                raise Failure(f"no {pattern!r} in {timeout} s (status {ended}):\n{self.tail()}")
            time.sleep(pause)

    def type(self, text):
        """Types text on the serial line."""
        self.child.stdin.write(text.encode())
        self.child.stdin.flush()

    def ctl(self, *words, timeout=10):
        """`ftemu ctl`; returns the finished process, or None if it does not end in time."""
        argv = [self.ftemu, "ctl", self.control, *words]
        try:
            return subprocess.run(
                argv, capture_output=True, text=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired:
            return None

    def status(self):
        """What it says of itself; empty while it does not answer. Asked without a process of its
        own, which would want a processor that the two sides have between them."""
        answer = b""
        try:
            with socket.socket(socket.AF_UNIX) as end:
                end.settimeout(10)
                end.connect(self.control)
                end.sendall(b'{"request":"status"}\n')
                while not answer.endswith(b"\n") and (data := end.recv(65536)):
                    answer += data
        except OSError:
            return {}
        try:
            return json.loads(answer).get("status", {}) if answer else {}
        except ValueError:
            raise Failure(f"the status is no JSON: {answer!r}") from None

    def role(self):
        """Its role in a word, by the last thing that it told its user; `gone` when it has ended."""
        if self.child.poll() is not None:
            return "gone"
        with open(self.messages, "rb") as file:
            told = file.read().decode("utf-8", "replace")
        last = max(TOLD, key=lambda line: told.rfind(line))
        if last not in told:
            return self.first
        follows = self.first == "spare" and "live, in epoch " not in told
        return "backup" if follows and TOLD[last] == "primary" else TOLD[last]

    def signal(self, number):
        """Sends a signal; returns the moment."""
        moment = time.monotonic()
        self.child.send_signal(number)
        return moment

    def kill(self):
        """SIGKILL; returns the moment."""
        moment = self.signal(signal.SIGKILL)
        self.child.wait()
        self.child.stdin.close()
        return moment

    def exited(self, timeout):
        """Waits for the end; returns the exit status."""
        try:
            return self.child.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Failure(f"{self.host.name} did not end in {timeout} s:\n{self.tail()}") from None

    def pin(self, processor):
        """Has the machine's thread run on one processor."""
        os.sched_setaffinity(self.child.pid, {processor})

    def cpu_seconds(self):
        """The processor time that it has used so far."""
        with open(f"/proc/{self.child.pid}/stat", encoding="ascii") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Pair:
    """Two hosts with one machine. `net` says how a host's side reaches the network: a function
    from the host to the value of --net."""

    def __init__(self, context, guest, hosts, net, arbiter):
        self.context, self.guest, self.hosts, self.net = context, guest, hosts, net
        self.arbiter, self.sides = arbiter, {}
        self.images = {host.name: guest.image(host.name) for host in hosts}
        self.key = key_file(context.work, "key", os.urandom(32))
        self.live = hosts[0]
        flags = subprocess.run(
            [context.ftemu, "boot", "--help"], capture_output=True, text=True, check=False
        ).stdout
        self.control = ["--control", "{control}"] if "--control" in flags else []

    def other(self, host):
        """The other host."""
        return self.hosts[1 - self.hosts.index(host)]

    def _argv(self, host, role, more):
        other = self.other(host)
        port, far = (getattr(h, "port_number", PORT) for h in (host, other))
        links = ["--listen", f"{host.address}:{port}", "--peer", f"{other.address}:{far}"]
        pair = [] if role is None else ["--role", role, "--key", self.key, *links]
        pair += [] if role is None else ["--arbiter", self.arbiter, *self.control]
        pair += [] if role is None else self.context.options
        machine = [*self.images[host.name], "-m", self.guest.memory, "--serial", "stdio"]
        machine += ["--net", self.net(host), *self.context.always]
        return [self.context.ftemu, "boot", *machine, *pair, *more]

    def start(self, host, role, more=(), instead=()):
        """Starts a side on host: role primary, backup, or None for a machine without a pair. more:
        further words; instead: a flag and its value for the usual one."""
        argv = self._argv(host, role, list(more))
        if instead:
            argv[argv.index(instead[0]) + 1] = instead[1]
        side = Side(self.context, host, argv, "spare" if role == "backup" else "solo")
        self.sides[host.name] = side
        return side

    def side(self, host):
        """The latest side of a host."""
        return self.sides[host.name]

    def begin(self, more=()):
        """Starts a primary, and a backup when its guest is ready; waits until protected."""
        self.start(self.hosts[0], "primary", more)
        self.side(self.live).printed(self.guest.ready, 900)
        self.start(self.hosts[1], "backup", more)
        self.protected()

    def alone(self, more=()):
        """Starts one machine without a pair, and waits until the guest is ready."""
        self.start(self.hosts[0], None, more).printed(self.guest.ready, 900)

    def protected(self, timeout=180):
        """Waits until the live side has a backup; returns the seconds since the younger of the two
        was started."""
        deadline = time.monotonic() + timeout
        live, backup = self.side(self.live), self.side(self.other(self.live))
        while live.role() != "primary":
            for side in (live, backup):
                if side.child.poll() is not None:
                    raise Failure(f"{side.host.name} ended: {side.child.poll()}\n{side.tail()}")
            if time.monotonic() > deadline:
                raise Failure(
                    f"not protected in {timeout} s: {live.status()} {backup.status()}\n"
                    f"{live.tail()}\n{backup.tail()}"
                )
            time.sleep(0.1)
        return time.monotonic() - max(live.since, backup.since)

    def taken_over(self, timeout=30):
        """Waits until the side that was the backup is live; from then on it is the live one."""
        deadline = time.monotonic() + timeout
        side = self.side(self.other(self.live))
        while (role := side.role()) not in LIVE:
            if role == "gone" and side.child.poll() is not None or time.monotonic() > deadline:
                raise Failure(f"{side.host.name} did not take over: {role}\n{side.tail()}")
            time.sleep(0.02)
        self.live = self.other(self.live)
        return side

    def kill_live(self):
        """SIGKILL for the live side; the other one takes over. Returns the moment."""
        moment = self.side(self.live).kill()
        time.sleep(0.2)  # asking costs processor time that the one who takes over needs
        self.taken_over()
        return moment

    def join(self):
        """Starts a new backup on the host that has none; returns the seconds until protected."""
        self.start(self.other(self.live), "backup")
        return self.protected()

    def end(self):
        """Kills what is left."""
        for side in self.sides.values():
            if side.child.poll() is None:
                side.kill()
