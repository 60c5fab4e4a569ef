"""ICMP echo: round trips as ping measures them, from the calling thread's network namespace."""

import os
import socket
import struct
import time


def checksum(data):
    """The ones' complement sum of RFC 1071."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def round_trips(address, count, interval=0.01, timeout=1.0):
    """Sends count requests one after the other; returns the round trips in seconds, None for each
    that was not answered in time."""
    times = []
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as end:
        identity = os.getpid() & 0xFFFF
        for number in range(count):
            packet = struct.pack("!BBHHH", 8, 0, 0, identity, number) + bytes(56)
            packet = packet[:2] + struct.pack("!H", checksum(packet)) + packet[4:]
            sent = time.monotonic()
            end.sendto(packet, (address, 0))
            times.append(_answer(end, identity, number, sent, timeout))
            time.sleep(max(0, interval - (time.monotonic() - sent)))
    return times


def _answer(end, identity, number, sent, timeout):
    while (left := sent + timeout - time.monotonic()) > 0:
        end.settimeout(left)
        try:
            reply = end.recv(2048)
        except TimeoutError:
            break
        header = (reply[0] & 15) * 4
        kind, _, _, their_identity, their_number = struct.unpack_from("!BBHHH", reply, header)
        if (kind, their_identity, their_number) == (0, identity, number):
            return time.monotonic() - sent
    return None
