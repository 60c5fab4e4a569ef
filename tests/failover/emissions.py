"""Who speaks for the guest: every frame that leaves a host's TAP device with the guest's address,
in the order of the kernel's clock.

runs() is the list of stretches in which one host alone spoke: [host, first, last, frames]. A pair
that had F failovers has at most F + 1 of them; two emitters at the same time show as more.
"""

import heapq
import select
import socket
import struct
import threading
import time

ETH_P_ALL = 3
SO_TIMESTAMPNS = 35
# Frames of different hosts are put in order when they are this old.
SETTLED = 0.2


class Emissions:
    def __init__(self, hosts, mac):
        """Watches the TAP devices of hosts for frames of mac (bytes)."""
        self.mac, self._runs, self._heap = mac, [], []
        self.sockets = {}
        for host in hosts:
            with host.inside():
                end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
                end.bind((host.tap, 0))
            end.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            end.setblocking(False)
            self.sockets[end] = host.name
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self):
        while not self._stop.is_set():
            ready, _, _ = select.select(list(self.sockets), [], [], 0.1)
            for end in ready:
                self._take_in(end)
            self._settle(time.time() - SETTLED)
        self._settle(float("inf"))

    def _take_in(self, end):
        for _ in range(256):
            try:
                frame, extra, _, address = end.recvmsg(64, 64)
            except BlockingIOError:
                return
            if address[2] == socket.PACKET_OUTGOING or frame[6:12] != self.mac:
                continue
            seconds, nanoseconds = struct.unpack("@qq", extra[0][2][:16])
            heapq.heappush(self._heap, (seconds + nanoseconds / 1e9, self.sockets[end]))

    def _settle(self, until):
        while self._heap and self._heap[0][0] <= until:
            when, host = heapq.heappop(self._heap)
            if self._runs and self._runs[-1][0] == host:
                self._runs[-1][2] = when
                self._runs[-1][3] += 1
            else:
                self._runs.append([host, when, when, 1])

    def runs(self):
        """The stretches so far (those of the last moment may be missing)."""
        time.sleep(2 * SETTLED)
        return [list(run) for run in self._runs]

    def first_of_last(self):
        """When the host that speaks now began to, by the monotonic clock."""
        runs = self.runs()
        return runs[-1][1] - time.time() + time.monotonic() if runs else None

    def close(self):
        """Ends the watch."""
        self._stop.set()
        self._thread.join()
        for end in self.sockets:
            end.close()
