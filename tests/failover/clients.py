"""Clients that notice everything: each checks every reply, and keeps its one TCP connection
through all failovers (downloads make a new one each, as downloads do).

A client runs in a thread from start() to stop(). `error` is the first thing that went wrong: a
wrong reply, a connection that ended, or silence of more than PATIENCE seconds. `replies` are the
times at which something came that had been waited for; silence() finds the longest pause among
them around a moment.
"""

import bisect
import hashlib
import http.client
import itertools
import os
import random
import select
import socket
import subprocess
import threading
import time

# The longest silence that is taken for a pause. Clients of a pair that is not there any more end.
PATIENCE = float(os.environ.get("FAILOVER_PATIENCE", "60"))


class Wrong(Exception):
    """A reply that is not the right one."""


class Client:
    """A thread that does rounds until it is stopped."""

    name = "client"
    gaps = True  # whether its pauses tell of the pair

    def __init__(self):
        self.replies, self.rounds, self.error = [], 0, None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self):
        """Connects, and starts its rounds; returns itself."""
        self.open()
        self._thread.start()
        return self

    def stop(self):
        """Ends after the round that is under way, verifies what was kept, and disconnects."""
        self._stop.set()
        self._thread.join(PATIENCE + 30)
        try:
            if self._thread.is_alive():
                raise Wrong("a round does not end")
            if self.error is None:
                self.verify()
        except (OSError, Wrong, http.client.HTTPException) as error:
            self.fail(error)
        finally:
            self.close()

    def _run(self):
        try:
            while not self._stop.is_set():
                self.round()
                self.rounds += 1
        except (OSError, Wrong, ValueError, http.client.HTTPException) as error:
            self.fail(error)

    def fail(self, error):
        """Notes what went wrong, if it is the first thing."""
        if self.error is None:
            self.error = f"{self.name}: {type(error).__name__}: {error} after {self.rounds} rounds"
            self.failed_at = time.monotonic()

    def replied(self):
        """Notes that something came."""
        self.replies.append(time.monotonic())

    def silence(self, moment, before=0.0, after=5.0):
        """The longest pause between two replies of which a part lies in the window around
        moment."""
        times = list(self.replies)
        first = max(0, bisect.bisect_right(times, moment - before) - 1)
        last = bisect.bisect_right(times, moment + after) + 1
        seen = times[first:last]
        return max((b - a for a, b in itertools.pairwise(seen)), default=float("inf"))

    def usual(self, moment, seconds=1.0):
        """The longest pause between two replies in the time before moment."""
        times = list(self.replies)
        first = bisect.bisect_left(times, moment - seconds)
        seen = times[max(0, first - 1) : bisect.bisect_right(times, moment)]
        return max((b - a for a, b in itertools.pairwise(seen)), default=0.0)

    def open(self):
        """Connects."""

    def verify(self):
        """Checks at the end what was acknowledged."""

    def close(self):
        """Disconnects."""


class Lines(Client):
    """A client of lines on one TCP connection."""

    def __init__(self, where):
        super().__init__()
        self.where = where
        self.kept = b""

    def open(self):
        self.socket = socket.create_connection(self.where, timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self):
        self.socket.close()

    def more(self):
        """Takes in more bytes."""
        data = self.socket.recv(65536)
        if not data:
            raise Wrong("the connection ended")
        self.kept += data

    def line(self):
        """The next line."""
        while b"\n" not in self.kept:
            self.more()
        line, self.kept = self.kept.split(b"\n", 1)
        return line.rstrip(b"\r")


class Counter(Lines):
    """The counter guest's only incrementing client: each number comes once and in order."""

    name = "counter"

    def __init__(self, where):
        super().__init__(where)
        self.count = None

    def open(self):
        super().open()
        self.socket.sendall(b"GET\n")
        self.count = int(self.line())

    def round(self):
        """One increment, or eight sent together."""
        batch = 8 if self.rounds % 4 == 3 else 1
        self.socket.sendall(b"INCR\n" * batch)
        for _ in range(batch):
            number = int(self.line())
            if number != self.count + 1:
                raise Wrong(f"{number} after {self.count}")
            self.count = number
            self.replied()

    def verify(self):
        self.socket.sendall(b"GET\n")
        if (number := int(self.line())) != self.count:
            raise Wrong(f"{number} at the end instead of {self.count}")


class Redis(Lines):
    """SET, GET and INCR, single and in pipelines of 16, in RESP by hand; remembers each
    acknowledged write and reads all of them back at the end."""

    name = "redis"

    def __init__(self, where, number=0):
        super().__init__(where)
        self.prefix, self.chance = f"c{number}", random.Random(number)
        self.written, self.count, self.acknowledged = {}, 0, 0

    @staticmethod
    def request(*words):
        """A command as RESP wants it."""
        parts = [b"*%d\r\n" % len(words)]
        for word in words:
            word = word if isinstance(word, bytes) else str(word).encode()
            parts.append(b"$%d\r\n%s\r\n" % (len(word), word))
        return b"".join(parts)

    def answer(self):
        """A reply: bytes, an int, or None."""
        line = self.line()
        kind, rest = line[:1], line[1:]
        if kind == b":":
            return int(rest)
        if kind == b"+":
            return rest
        if kind != b"$":
            raise Wrong(f"reply {line!r}")
        size = int(rest)
        if size < 0:
            return None
        while len(self.kept) < size + 2:
            self.more()
        value, self.kept = self.kept[:size], self.kept[size + 2 :]
        return value

    def ask(self, *words):
        """One command, one reply."""
        self.socket.sendall(self.request(*words))
        return self.answer()

    def _step(self):
        """A random command: its bytes, the reply that is due, and what it writes."""
        kind = self.chance.randrange(3)
        key = f"{self.prefix}:{self.chance.randrange(2000)}"
        if kind == 0:
            self.count += 1
            return self.request("INCR", f"{self.prefix}:n"), self.count
        if kind == 1:
            value = b"%d-" % self.chance.getrandbits(64) * self.chance.choice((1, 4, 40))
            self.written[key] = value
            return self.request("SET", key, value), b"OK"
        return self.request("GET", key), self.written.get(key)

    def round(self):
        """One command, or sixteen sent together."""
        steps = [self._step() for _ in range(16 if self.rounds % 2 else 1)]
        self.socket.sendall(b"".join(bytes_ for bytes_, _ in steps))
        for _, due in steps:
            got = self.answer()
            if got != due:
                raise Wrong(f"{got!r} instead of {due!r}")
            self.acknowledged += due == b"OK" or isinstance(due, int)
            self.replied()

    def verify(self):
        lost = [key for key, value in self.written.items() if self.ask("GET", key) != value]
        if self.count and self.ask("GET", f"{self.prefix}:n") != b"%d" % self.count:
            lost.append(f"{self.prefix}:n")
        if lost:
            raise Wrong(f"{len(lost)} acknowledged writes are lost, the first of {lost[0]}")


class Ssh(Client):
    """An ssh session that stays open: a loop in the guest prints increasing numbers."""

    name = "ssh"
    loop = "python3 -uc 'import time\nfor i in range(1, 1 << 40): print(i); time.sleep(.02)'"

    def __init__(self, argv):
        super().__init__()
        self.argv, self.kept = [*argv, self.loop], b""

    def open(self):
        pipe = subprocess.PIPE
        self.child = subprocess.Popen(
            self.argv, stdin=subprocess.DEVNULL, stdout=pipe, stderr=subprocess.STDOUT
        )

    def close(self):
        self.child.kill()
        self.child.wait()

    def round(self):
        """The next line."""
        while b"\n" not in self.kept:
            ready, _, _ = select.select([self.child.stdout], [], [], PATIENCE)
            data = os.read(self.child.stdout.fileno(), 65536) if ready else b""
            if not data:
                raise Wrong(f"the session {'ended' if ready else 'is silent'}: {self.kept!r}")
            self.kept += data
        line, self.kept = self.kept.split(b"\n", 1)
        if line.strip() != b"%d" % (self.rounds + 1):
            raise Wrong(f"{line!r} after {self.rounds}")
        self.replied()


class Downloads(Client):
    """One download after the other, each compared with the checksum."""

    name = "http"
    gaps = False  # it pauses by itself between two downloads

    def __init__(self, where, path, sha256, pause=0.2):
        super().__init__()
        self.where, self.path, self.sha256, self.pause = where, path, sha256, pause

    def round(self):
        """One download."""
        connection = http.client.HTTPConnection(*self.where, timeout=PATIENCE)
        connection.request("GET", self.path)
        response = connection.getresponse()
        digest, size = hashlib.sha256(), 0
        while piece := response.read(65536):
            digest.update(piece)
            size += len(piece)
            self.replied()
        connection.close()
        if response.status != 200 or digest.hexdigest() != self.sha256:
            raise Wrong(f"status {response.status}, {size} bytes with another checksum")
        self._stop.wait(self.pause)


class Page(Client):
    """One page after the other, each with the words that it must contain."""

    name = "page"
    gaps = False

    def __init__(self, where, path, words, pause=0.2):
        super().__init__()
        self.where, self.path, self.words, self.pause = where, path, words, pause

    def round(self):
        """One page."""
        connection = http.client.HTTPConnection(*self.where, timeout=PATIENCE)
        connection.request("GET", self.path)
        response = connection.getresponse()
        text = response.read()
        connection.close()
        if response.status != 200 or self.words not in text:
            raise Wrong(f"status {response.status}: {text[:80]!r}")
        self._stop.wait(self.pause)
