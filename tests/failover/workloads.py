"""What the cost of protection is measured with: work in a guest, timed by the host's clock.

Each workload is prepared once and then run many times; run() returns seconds. The guest says when
the work begins and ends, so connecting and starting a shell are not counted.
"""

import contextlib
import os
import socket
import threading
import time

from clients import Redis
from sides import Failure

# 30 files of some 250 lines: structures, switches, loops over arrays, recursion, floating point.
GENERATOR = r"""
mkdir -p /root/set && cd /root/set && python3 - <<'PY'
for n in range(30):
    out = ["#include <stdio.h>", "#include <stdlib.h>", "#include <string.h>", ""]
    out += ["struct item { int key; double weight; char name[32]; struct item *next; };", ""]
    for f in range(12):
        out += [
            f"static int scan_{f}(const int *v, int n, int k)",
            "{",
            "    int best = 0;",
            f"    for (int i = {f % 3}; i < n; i++) {{",
            f"        switch ((v[i] ^ k) % {7 + f}) {{",
            *[f"        case {c}: best += v[i] * {c + n} - k; break;" for c in range(6)],
            f"        default: if (v[i] > best) best = v[i] / {f + 2}; break;",
            "        }",
            "    }",
            f"    return best ^ {n * 31 + f};",
            "}",
            "",
        ]
    out += [
        "static struct item *push(struct item *list, int key)",
        "{",
        "    struct item *it = calloc(1, sizeof *it);",
        "    it->key = key; it->weight = key * 0.75; it->next = list;",
        '    snprintf(it->name, sizeof it->name, "item %d", key);',
        "    return it;",
        "}",
        "",
        f"double total_{n}(int n)",
        "{",
        "    int v[64]; struct item *list = 0; double sum = 0;",
        "    for (int i = 0; i < 64; i++) v[i] = i * n;",
        *[f"    list = push(list, scan_{f}(v, 64, n + {f}));" for f in range(12)],
        "    for (struct item *it = list; it; it = it->next) sum += it->weight + strlen(it->name);",
        "    while (list) { struct item *next = list->next; free(list); list = next; }",
        "    return sum;",
        "}",
    ]
    open(f"f{n}.c", "w").write("\n".join(out) + "\n")
PY
"""

RECEIVER = """
import socket, sys
end = socket.create_server(("0.0.0.0", 5001)).accept()[0]
while data := end.recv(1 << 18): sys.stdout.buffer.write(data)
""".strip()


@contextlib.contextmanager
def preferred():
    """The calling thread, a client of the guest, runs when it has something to do, as if it were on
    a computer of its own; without the right to that it takes its turn."""
    before = os.sched_getscheduler(0)
    first = os.sched_param(os.sched_get_priority_min(os.SCHED_FIFO))
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, first)
    try:
        yield
    finally:
        os.sched_setscheduler(0, before, os.sched_param(0))


class Workload:
    """Some work in a guest. `guests` are those that have what it needs."""

    guests = ("linux", "debian")

    def __init__(self, world, scale):
        self.world, self.guest, self.place, self.scale = world, world.guest, world.place, scale

    def prepare(self):
        """What is done once."""


class Cpu(Workload):
    """sha256sum, about a minute of it at full scale."""

    name = "cpu"

    def run(self):
        size = int(12000 * self.scale)
        return self.guest.timed(
            self.world, f"dd if=/dev/zero bs=1M count={size} 2>/dev/null | sha256sum"
        )


class Compile(Workload):
    """gcc -O2 over 30 C files."""

    name, guests = "compile", ("debian",)

    def prepare(self):
        self.guest.must(self.place, GENERATOR)

    def run(self):
        count = max(1, int(30 * self.scale))
        files = " ".join(f"f{n}.c" for n in range(count))
        command = f"cd /root/set && rm -f *.o && gcc -O2 -c {files} && sync"
        return self.guest.timed(self.world, command)


class RedisPipeline(Workload):
    """SET and GET in turn from 16 clients at once, each in pipelines of 16, of which four are under
    way, without a log on the disk: the guest has more to do while the client looks at what it got.
    The replies are compared as they come, so that the client needs little of the processors."""

    name, guests = "redis", ("debian",)
    clients, ahead = 16, 4

    def prepare(self):
        settings = ("bind 0.0.0.0", "protected-mode no", 'save ""', "appendonly no")
        self.guest.must(
            self.place, "; ".join(f"redis-cli config set {setting}" for setting in settings)
        )

    def run(self):
        ends = []
        for _ in range(self.clients):
            client = Redis(self.place(6379))
            client.open()
            ends.append(client.socket)
        value = b"x" * 64
        pipelines = [
            8 * (Redis.request("SET", f"key:{n}", value) + Redis.request("GET", f"key:{n}"))
            for n in range(1000)
        ]
        due = 8 * (b"+OK\r\n$64\r\n%s\r\n" % value)
        with preferred():
            seconds = self.ask(ends, pipelines, due)
        for end in ends:
            end.close()
        return seconds

    def ask(self, ends, pipelines, due):
        """Sends all, and compares what comes."""
        rounds, begin = int(2500 * self.scale), time.monotonic()
        for n in range(rounds + self.ahead):
            for number, end in enumerate(ends):
                if n >= self.ahead and receive(end, len(due)) != due:
                    raise Failure("redis gave a wrong reply")
                if n < rounds:
                    end.sendall(pipelines[(n * self.clients + number) % 1000])
        return time.monotonic() - begin


def receive(end, size):
    """As many bytes from a socket; fewer if it ends."""
    data = end.recv(size)
    while len(data) < size and (more := end.recv(size - len(data))):
        data += more
    return data


class Receive(Workload):
    """The guest receives 100 MB on one TCP connection."""

    name = "receive"

    @property
    def size(self):
        """Bytes."""
        return int(100_000_000 * self.scale)

    def run(self):
        sender = threading.Thread(target=self.send)
        sender.start()
        command = f"test $({self.listen} </dev/null | wc -c) = {self.size}"
        try:
            self.guest.timed(self.world, command, 600)
        finally:
            sender.join(60)
        return time.monotonic() - self.begin

    @property
    def listen(self):
        """What receives in the guest."""
        if self.guest.name == "linux":
            return "nc -l -p 5001"
        return f"python3 -c '{RECEIVER}'"

    def send(self):
        """Sends all of it as soon as somebody listens."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                end = socket.create_connection((self.place(5001)), timeout=600)
                break
            except OSError:
                time.sleep(0.1)
        else:
            return
        with end, preferred():
            self.begin = time.monotonic()
            end.sendall(bytes(self.size))
            end.shutdown(socket.SHUT_WR)
            end.recv(1)


WORKLOADS = {kind.name: kind for kind in (Cpu, Compile, RedisPipeline, Receive)}
