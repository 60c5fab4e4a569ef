"""Where a pair lives in a test: two computers on a LAN with TAP devices, or one computer with
`ftemu lan`. A World starts guest, pair and clients, and takes them down again.
"""

import os
import socket
import subprocess
import time

import hosts
from emissions import Emissions
from guests import GUESTS, MEASURED
from sides import Failure, Here, Pair, key_file

MAC = bytes.fromhex("525400123456")
ARBITER_PORT = 4810


def free_port():
    """A port that nobody listens on."""
    with socket.socket() as end:
        end.bind(("127.0.0.1", 0))
        return end.getsockname()[1]


class World:
    """What the scenarios are given. `place` says where the clients reach a port of the guest."""

    cables = False  # whether there are cables that can be pulled, and frames that can be watched

    def __init__(self, context, guest):
        kind = {**GUESTS, **MEASURED}[guest]
        self.context, self.guest = context, kind(context)
        self.clients, self.helpers, self.emissions = [], [], None

    def begin(self):
        """A protected, prepared guest with its clients; returns what is known of the joining."""
        self.pair.begin()
        joined = self.pair.side(self.pair.live).transfers()[-1]
        self.reachable()
        self.guest.prepare(self.place)
        self.connect()
        return dict(zip(("ms", "rounds", "bytes", "standstill_ms"), joined))

    def reachable(self, timeout=120):
        """Waits until the guest's ports answer."""
        deadline = time.monotonic() + timeout
        for port in self.guest.at_once:
            while True:
                try:
                    socket.create_connection(self.place(port), timeout=5).close()
                    break
                except OSError as error:
                    if time.monotonic() > deadline:
                        side = self.pair.side(self.pair.live)
                        raise Failure(f"port {port}: {error}\n{side.tail()}") from None
                    time.sleep(0.2)

    def connect(self):
        """Starts the clients, and waits until each is at work; returns their rounds."""
        self.clients = [client.start() for client in self.guest.clients(self.place)]
        deadline = time.monotonic() + 120
        while idle := [client.name for client in self.clients if client.rounds < 5]:
            self.check()
            if time.monotonic() > deadline:
                raise Failure(f"not at work in 120 s: {', '.join(idle)}")
            time.sleep(0.1)
        return {client.name: client.rounds for client in self.clients}

    def check(self):
        """No client has seen anything wrong."""
        if errors := [client.error for client in self.clients if client.error]:
            tails = "\n".join(side.tail() for side in self.pair.sides.values())
            raise Failure("\n".join(errors) + "\n" + tails)

    def settle(self, since, timeout=30):
        """Waits until every client whose pauses count has had a reply a second after since."""
        deadline = time.monotonic() + timeout
        while any(
            client.gaps and (not client.replies or client.replies[-1] < since + 1)
            for client in self.clients
        ):
            self.check()
            if time.monotonic() > deadline:
                quiet = [c.name for c in self.clients if c.replies[-1:] < [since + 1]]
                raise Failure(f"{', '.join(quiet)}: nothing for {timeout} s")
            time.sleep(0.05)

    def silences(self, moment, after=1.0):
        """The longest pause from moment on of each client that makes none itself, in ms."""
        return {c.name: 1000 * c.silence(moment, after=after) for c in self.clients if c.gaps}

    def disconnect(self):
        """Stops the clients; each verifies what it knows."""
        clients, self.clients = self.clients, []
        for client in clients:
            client.stop()
        if errors := [client.error for client in clients if client.error]:
            raise Failure("\n".join(errors))
        return clients

    def end(self):
        """Takes everything down."""
        for client in self.clients:
            client.close()
        self.pair.end()
        for process in self.helpers:
            process.kill()
            process.wait()
        self.unwatch()

    def unwatch(self):
        """Frames are not watched from here on: that takes processor time for each."""
        if self.emissions:
            self.emissions.close()
            self.emissions = None

    def helper(self, argv, name):
        """Starts a process that lives as long as this world."""
        path = os.path.join(self.context.work, f"{name}.messages")
        with open(path, "wb") as messages:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=messages, stderr=messages
            )
        self.helpers.append(process)
        return process


class TapWorld(World):
    """Hosts P and B with TAP devices, and W with the witness, on one switch."""

    cables = True

    def __init__(self, context, guest, bad=None):
        super().__init__(context, guest)
        self.lan = hosts.Lan()
        p, b = (self.lan.host(*names, bad) for names in (("P", "10.0.2.101"), ("B", "10.0.2.102")))
        self.witness = self.lan.host("W", "10.0.2.103")
        arbiter = self._arbiter()
        self.pair = Pair(context, self.guest, [p, b], lambda host: f"tap:{host.tap}", arbiter)
        self.emissions = Emissions([p, b], MAC)

    def _arbiter(self):
        state = os.path.join(self.context.work, "witness.state")
        listen = f"{self.witness.address}:{ARBITER_PORT}"
        key = key_file(self.context.work, "key", os.urandom(32))
        argv = [self.context.ftemu, "witness", "--listen", listen, "--state", state, "--key", key]
        process = self.helper(self.witness.argv(argv), "witness")
        if self._listening(process):
            return f"witness:{listen}"
        folder = os.path.join(self.context.work, "arbiter")
        os.makedirs(folder, exist_ok=True)
        return f"dir:{folder}"

    def _listening(self, process):
        """Waits until the witness answers; False if it has ended."""
        deadline = time.monotonic() + 10
        while process.poll() is None and time.monotonic() < deadline:
            try:
                address = (self.witness.address, ARBITER_PORT)
                socket.create_connection(address, timeout=1).close()
                return True
            except OSError:
                time.sleep(0.05)
        return False

    def place(self, port):
        """The guest has its own address on the LAN."""
        return hosts.GUEST, port


class LanWorld(World):
    """One computer: both sides attach to `ftemu lan`, and the clients to its forwarded ports."""

    def __init__(self, context, guest):
        super().__init__(context, guest)
        self.forwards = {port: free_port() for port in self.guest.ports}
        cable = os.path.join(context.work, "lan.socket")
        rules = [
            word
            for port, here in self.forwards.items()
            for word in ("--forward", f"tcp:127.0.0.1:{here}-:{port}")
        ]
        self.helper([context.ftemu, "lan", "--listen", f"unix:{cable}", *rules], "lan")
        deadline = time.monotonic() + 10
        while not os.path.exists(cable) and time.monotonic() < deadline:
            time.sleep(0.02)
        folder = os.path.join(context.work, "arbiter")
        os.makedirs(folder, exist_ok=True)
        sides = [Here("P", free_port()), Here("B", free_port())]
        self.pair = Pair(context, self.guest, sides, lambda _: f"unix:{cable}", f"dir:{folder}")

    def place(self, port):
        """A forwarded port of this computer."""
        return "127.0.0.1", self.forwards[port]
