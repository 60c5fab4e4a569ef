"""What the cost of protection is measured with: work in debian.img, timed by the host's clock.

Each workload is prepared once and then run many times; run() returns seconds. The guest says when
the work begins and ends on lines of their own, so connecting and starting a shell are not counted.
"""

import socket
import subprocess
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

RECEIVER = r"""
import socket
server = socket.create_server(("0.0.0.0", 5001))
while True:
    end, _ = server.accept()
    left = int(end.recv(16))
    end.sendall(b"g")
    buffer = bytearray(1 << 18)
    while left > 0 and (n := end.recv_into(buffer)):
        left -= n
    end.sendall(b"d")
    end.close()
"""


def between(argv, timeout):
    """Runs argv, which prints `begin` and `end`; returns the seconds between the two."""
    times = {}
    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        deadline = time.monotonic() + timeout
        for line in child.stdout:
            times[line.strip()] = time.monotonic()
            if b"end" in times or time.monotonic() > deadline:
                break
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    if b"end" not in times or b"begin" not in times:
        raise Failure(f"{argv[-1]!r} printed {sorted(times)} only")
    return times[b"end"] - times[b"begin"]


class Workload:
    """Some work in a guest."""

    def __init__(self, guest, place, scale):
        self.guest, self.place, self.scale = guest, place, scale

    def prepare(self):
        """What is done once."""

    def shell(self, command, timeout=1800):
        """Runs a command in the guest; returns the seconds that it took."""
        script = f"echo begin; {command} >/dev/null 2>&1 || exit 1; echo end"
        return between([*self.guest.ssh(self.place), script], timeout)


class Cpu(Workload):
    """sha256sum, about a minute of it at full scale."""

    name = "cpu"

    def run(self):
        size = int(12000 * self.scale)
        return self.shell(f"head -c {size}M /dev/zero | sha256sum")


class Compile(Workload):
    """gcc -O2 over 30 C files."""

    name = "compile"

    def prepare(self):
        self.guest.must(self.place, GENERATOR)

    def run(self):
        count = max(1, int(30 * self.scale))
        files = " ".join(f"f{n}.c" for n in range(count))
        return self.shell(f"cd /root/set && rm -f *.o && gcc -O2 -c {files} && sync")


class RedisPipeline(Workload):
    """SET and GET in turn in pipelines of 16, without a log on the disk."""

    name = "redis"

    def prepare(self):
        settings = ("bind 0.0.0.0", "protected-mode no", 'save ""', "appendonly no")
        self.guest.must(
            self.place, "; ".join(f"redis-cli config set {setting}" for setting in settings)
        )

    def run(self):
        client = Redis(self.place(6379))
        client.open()
        rounds, begin = int(10000 * self.scale), time.monotonic()
        value = b"x" * 64
        for n in range(rounds):
            key = f"key:{n % 1000}"
            pair = client.request("SET", key, value) + client.request("GET", key)
            client.socket.sendall(pair * 8)
            for _ in range(8):
                if (client.answer(), client.answer()) != (b"OK", value):
                    raise Failure("redis gave a wrong reply")
        seconds = time.monotonic() - begin
        client.close()
        return seconds


class Receive(Workload):
    """The guest receives 100 MB on one TCP connection."""

    name = "receive"

    def prepare(self):
        self.guest.must(self.place, "cat >/root/receiver.py", input=RECEIVER.encode())
        self.guest.must(
            self.place, "setsid nohup python3 /root/receiver.py >/dev/null 2>&1 </dev/null &"
        )
        time.sleep(3)

    @property
    def size(self):
        """Bytes."""
        return int(100_000_000 * self.scale)

    def run(self):
        with socket.create_connection(self.place(5001), timeout=600) as end:
            end.sendall(b"%16d" % self.size)
            if end.recv(1) != b"g":
                raise Failure("the receiver is not there")
            piece, left, begin = bytes(1 << 16), self.size, time.monotonic()
            while left > 0:
                left -= end.send(piece[: min(left, len(piece))])
            if end.recv(1) != b"d":
                raise Failure("the receiver did not get all")
            return time.monotonic() - begin


WORKLOADS = {kind.name: kind for kind in (Cpu, Compile, RedisPipeline, Receive)}
