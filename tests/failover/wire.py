"""A bad cable between two TAP devices: delay, jitter and loss as `tc netem` makes them, on any
kernel and the same for a seed.

A frame that goes in at one end comes out at the other after delay +- jitter milliseconds, never
before a frame that went in earlier, or not at all. TAP devices have no offloads, so a frame is a
packet as it would be on a cable.
"""

import collections
import fcntl
import os
import random
import select
import struct
import time

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000


class Bad:
    """How bad: milliseconds each way, and the share of frames lost each way."""

    def __init__(self, delay_ms=0.0, jitter_ms=0.0, loss=0.0, seed=1):
        self.delay_ms, self.jitter_ms, self.loss, self.seed = delay_ms, jitter_ms, loss, seed

    def __str__(self):
        return f"{self.delay_ms:g} ms +- {self.jitter_ms:g} ms, {self.loss:.1%} loss each way"


def tap(name):
    """Makes a TAP device in the calling thread's network namespace; returns its descriptor."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    request = struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI)
    fcntl.ioctl(descriptor, TUNSETIFF, request)
    return descriptor


class Cable:
    """Carries frames between two TAP devices, in a process of its own."""

    def __init__(self, near, far, bad):
        self.pid = os.fork()
        if self.pid == 0:
            # Not a copy of the test: no exit handlers, no buffers to flush.
            try:
                _carry((near, far), bad)
            finally:
                os._exit(1)
        os.close(near)
        os.close(far)


def _carry(ends, bad):
    chance = random.Random(bad.seed)
    queues = (collections.deque(), collections.deque())
    while True:
        now = time.monotonic()
        due = [queue[0][0] for queue in queues if queue]
        wait = max(0.0, min(due) - now) if due else None
        ready, _, _ = select.select(ends, [], [], wait)
        now = time.monotonic()
        for end in ready:
            _take_in(end, queues[ends.index(end)], bad, chance, now)
        for side in (0, 1):
            _let_out(queues[side], ends[1 - side], now)


def _take_in(end, queue, bad, chance, now):
    for _ in range(64):
        try:
            frame = os.read(end, 65536)
        except BlockingIOError:
            return
        if chance.random() < bad.loss or len(queue) > 5000:
            continue
        due = now + (bad.delay_ms + chance.uniform(-bad.jitter_ms, bad.jitter_ms)) / 1000
        queue.append((max(due, queue[-1][0]) if queue else due, frame))


def _let_out(queue, end, now):
    while queue and queue[0][0] <= now:
        try:
            os.write(end, queue.popleft()[1])
        except OSError:
            pass  # the other end is down or full: the frame is lost
