"""Hosts as network namespaces, joined by a bridge: what the pair's computers are in these tests.

seclude() moves the whole test into mount, process and network namespaces of its own. The kernel
removes them, every process in them and every device when the test ends, however it ends, also by
SIGKILL; nothing is ever seen from outside and nothing has to be swept up.

The test's own network namespace is the LAN's switch and the clients' computer (10.0.2.2, the
bridge `lan`). Each Host is a namespace of its own with a cable to a port of that switch. A host has
one network card, as a laptop does: its bridge `br0` holds the card `eth0`, the TAP device of the
guest and the host's own address, so logging channel, arbiter and guest share the cable.

Faults: Host.pull() and plug() (silence: the switch's port goes down, neither end is told by any
packet), Host.lose(other) and find(other) (packets from this host to that one vanish: one
direction), and bad=wire.Bad(...) for a cable with delay, jitter and loss.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys

import wire

# The client and gateway, and what debian.img and the counter guest take for themselves.
CLIENT, GUEST = "10.0.2.2", "10.0.2.15"
# No computer has this address: frames to it are lost.
NOWHERE = "02:de:ad:00:00:00"
CLONE_NEWNET = 0x40000000


def why_not():
    """Why namespaces with TAP devices cannot be had here, or None."""
    for tool in ("ip", "unshare", "mount"):
        if not shutil.which(tool):
            return f"{tool} is not installed"
    script = "ip link add br0 type bridge && ip tuntap add dev tap0 mode tap"
    made = subprocess.run(
        [*_unshare(), "sh", "-c", script], capture_output=True, text=True, check=False
    )
    return None if made.returncode == 0 else (made.stderr.strip() or "unshare failed")


def _unshare():
    rights = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return [
        "unshare",
        *rights,
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "--propagation",
        "private",
    ]


def seclude():
    """Runs this very command again inside namespaces of its own, unless it is there already.

    Returns inside; outside it exits with the status of the run inside."""
    if os.environ.get("FTEMU_SECLUDED") == "1":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        names = "/run/netns" if os.path.isdir("/run/netns") else "/run"
        _must("mount", "-t", "tmpfs", "none", names)
        os.makedirs("/run/netns", exist_ok=True)
        _must("ip", "link", "set", "lo", "up")
        return
    environment = {**os.environ, "FTEMU_SECLUDED": "1"}
    argv = [*_unshare(), sys.executable, *sys.argv]
    # The run inside dies with this process (--kill-child), and every process in it with it.
    sys.stdout.flush()
    os.execvpe(argv[0], argv, environment)


def _must(*argv):
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout


class Lan:
    """The switch, and the clients' computer at CLIENT."""

    def __init__(self, address=f"{CLIENT}/24"):
        self.hosts = []
        _must("ip", "link", "add", "lan", "type", "bridge")
        _must("ip", "addr", "add", address, "dev", "lan")
        _must("ip", "link", "set", "lan", "up")

    def host(self, name, address, bad=None):
        """Connects another computer."""
        host = Host(name, address, bad)
        self.hosts.append(host)
        return host

    def heal(self):
        """Undoes every fault."""
        for host in self.hosts:
            host.plug()
            for other in self.hosts:
                host.find(other)


class Host:
    """A computer: its name is its namespace's, its TAP device is `tap` + name."""

    def __init__(self, name, address, bad=None):
        self.name, self.address, self.bad = name, address, bad
        self.tap, self.port = f"tap{name}", f"port{name}"
        self.plugged = True
        _must("ip", "netns", "add", name)
        self._ip("link", "set", "lo", "up")
        self._ip("link", "add", "br0", "type", "bridge")
        if bad is None:
            _must("ip", "link", "add", self.port, "type", "veth", "peer", "eth0", "netns", name)
        else:
            with self.inside():
                far = wire.tap("eth0")
            self.cable = wire.Cable(wire.tap(self.port), far, bad)
        self._ip("tuntap", "add", self.tap, "mode", "tap")
        for device in ("eth0", self.tap):
            self._ip("link", "set", device, "master", "br0", "up")
        self._ip("addr", "add", f"{address}/24", "dev", "br0")
        self._ip("link", "set", "br0", "up")
        _must("ip", "link", "set", self.port, "master", "lan", "up")

    def _ip(self, *arguments):
        return _must("ip", "-n", self.name, *arguments)

    def argv(self, argv):
        """The command line that runs argv on this computer."""
        return ["ip", "netns", "exec", self.name, *argv]

    def inside(self):
        """A with statement whose thread is on this computer: sockets made in it stay there."""
        return _Inside(self.name)

    def pull(self):
        """Pulls the network cable: silence."""
        self.plugged = False
        _must("ip", "link", "set", self.port, "down")

    def plug(self):
        """Puts the cable back."""
        if not self.plugged:
            self.plugged = True
            _must("ip", "link", "set", self.port, "up")

    def lose(self, other):
        """Packets from this computer to that one vanish from now on."""
        neighbour = (other.address, "lladdr", NOWHERE, "dev", "br0", "nud", "permanent")
        self._ip("neigh", "replace", *neighbour)

    def find(self, other):
        """Packets from this computer reach that one again."""
        if other is not self and NOWHERE in self._ip("neigh", "show", other.address):
            self._ip("neigh", "del", other.address, "dev", "br0")


class _Inside:
    """Moves the calling thread into a namespace and back."""

    def __init__(self, name):
        self.name = name

    def __enter__(self):
        self.back = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        _setns(there)
        os.close(there)

    def __exit__(self, *_):
        _setns(self.back)
        os.close(self.back)


def _setns(descriptor):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
