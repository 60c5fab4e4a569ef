#!/usr/bin/env python3
"""Runs counter.img under QEMU and checks what README.md promises, from outside.

Needs qemu-system-x86_64. Takes about half a minute; writes only to a temporary directory.
"""

import os
import pathlib
import random
import re
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time
import urllib.request
import zlib

IMAGE = pathlib.Path(__file__).with_name("counter.img")
SLOT_SECTORS = (8, 16)
PANIC_STATUS = 99
LINE_CLIENTS = 20
SEED = 20261121


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Guest:
    """A running guest on the disk `disk`."""

    started = []

    def __init__(self, disk, network=None, wait_for="ready ip="):
        self.line_port, self.http_port = free_port(), free_port()
        self.monitor = disk.with_suffix(".monitor")
        self.monitor.unlink(missing_ok=True)
        forwards = f"hostfwd=tcp:127.0.0.1:{self.line_port}-:7777"
        forwards += f",hostfwd=tcp:127.0.0.1:{self.http_port}-:80"
        command = "qemu-system-x86_64 -accel tcg -machine pc -cpu max -m 64 -display none".split()
        command += ["-drive", f"file={disk},format=raw,if=ide", "-serial", "stdio"]
        command += ["-netdev", network or f"user,id=n0,{forwards}", "-device", "e1000,netdev=n0"]
        command += ["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
        command += ["-monitor", f"unix:{self.monitor},server=on,wait=off"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        Guest.started.append(self)
        self.ready = self.expect(wait_for)

    def expect(self, pattern):
        """Reads the serial port up to a line with `pattern` and returns the line."""
        seen = []
        for line in self.process.stdout:
            seen.append(line.decode(errors="replace"))
            if re.search(pattern, seen[-1]):
                return seen[-1]
        raise AssertionError(f"the guest ended before {pattern!r}: {''.join(seen)}")

    def type(self, line):
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.line_port), timeout=20)

    def ask(self, *lines):
        with self.connect() as client:
            client.sendall("".join(line + "\n" for line in lines).encode())
            answers = client.makefile()
            return [answers.readline().rstrip("\n") for _ in lines]

    def http(self, path, method="GET"):
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port}{path}", method=method)
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.read().decode()

    def press_power_button(self):
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.connect(str(self.monitor))
            monitor.sendall(b"system_powerdown\n")
            seen = b""
            while seen.count(b"(qemu)") < 2:  # the prompt before and after
                seen += monitor.recv(4096)

    def cpu_seconds(self):
        stat = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text()
        user, system = stat.rsplit(")", 1)[1].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def ends_with(self, status):
        self.process.stdout.read()
        assert self.process.wait(20) == status, f"exit status {self.process.returncode}"

    def kill(self):
        self.process.kill()
        self.process.wait()


def fresh_disk(directory, slots=(b"", b"")):
    disk = directory / "disk.img"
    shutil.copyfile(IMAGE, disk)
    with disk.open("r+b") as file:
        for sector, slot in zip(SLOT_SECTORS, slots):
            file.seek(sector * 512)
            file.write(slot)
    return disk


def slot(sequence, value):
    body = b"FTCOUNT1" + struct.pack("<QQ", sequence, value)
    body = body.ljust(508, b"\0")
    return body + struct.pack("<I", zlib.crc32(body))


def check_protocol(directory):
    guest = Guest(fresh_disk(directory))
    assert guest.ask("INCR", "incr\r", "GET", "ECHO a b", "NONSENSE")[:4] == ["1", "2", "2", "a b"]
    assert guest.ask("x" * 2000)[0].startswith("ERR")
    first, second = (guest.ask("SESSION")[0].split("; ") for _ in range(2))
    values = r"rdrand=[0-9a-f]{16} tsc=\d+ rtc=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"
    pattern = f"SESSION boot: {values}; opened: {values}; now: {values}"
    assert re.fullmatch(pattern, "; ".join(first)), first
    assert first[0] == second[0] and first[1:] != second[1:]
    assert "<h1>2</h1>" in guest.http("/")
    assert guest.http("/incr", "POST") == "3\n" and guest.http("/counter") == "3\n"
    for number in range(4, 30):
        assert guest.http("/incr", "POST") == f"{number}\n"  # more than HTTP has sockets
    guest.type("incr")
    guest.expect("^30")
    guest.type("reboot")
    guest.expect("ready ip=.* counter=30 ")
    guest.press_power_button()
    guest.expect("power-off counter=30")
    guest.ends_with(0)


def check_load(directory):
    guest = Guest(fresh_disk(directory))
    with guest.connect() as client:
        count, started = 20000, time.monotonic()
        threading.Thread(target=client.sendall, args=(b"INCR\n" * count,)).start()
        answers = client.makefile()
        assert [int(answers.readline()) for _ in range(count)] == list(range(1, count + 1))
        print(f"  pipelined: {count / (time.monotonic() - started):.0f} INCR/s")
    clients = [guest.connect() for _ in range(LINE_CLIENTS)]
    readers = [client.makefile() for client in clients]
    count, started, seen = 20, time.monotonic(), []
    for _ in range(count):
        for client in clients:
            client.sendall(b"INCR\n")
        seen += [int(reader.readline()) for reader in readers]
    rate = len(seen) / (time.monotonic() - started)
    print(f"  {LINE_CLIENTS} clients: {rate:.0f} INCR/s")
    assert sorted(seen) == list(range(20001, 20001 + len(seen)))
    before = guest.cpu_seconds()
    time.sleep(3)
    idle = (guest.cpu_seconds() - before) / 3
    print(f"  idle with {LINE_CLIENTS} clients: {idle:.1%} of a processor")
    assert idle < 0.25
    guest.kill()


def check_kills(directory):
    """After a crash: everything acknowledged is there, and nothing that was not asked for."""
    disk, dice = fresh_disk(directory), random.Random(SEED)
    acknowledged = asked = 0
    for _ in range(5):
        guest = Guest(disk)
        number = int(re.search(r"counter=(\d+)", guest.ready)[1])
        assert acknowledged <= number <= asked, (acknowledged, number, asked)
        asked = number
        with guest.connect() as client:
            answers = client.makefile()
            threading.Timer(dice.uniform(0.1, 0.6), guest.process.kill).start()
            try:
                while True:
                    batch = dice.randrange(1, 50)
                    asked += batch
                    client.sendall(b"INCR\n" * batch)
                    for _ in range(batch):
                        line = answers.readline()
                        if not line.endswith("\n"):
                            raise ConnectionError
                        acknowledged = int(line)
            except ConnectionError:
                guest.kill()


def check_slots(directory):
    torn = slot(7, 70)[:100] + b"\xff" * 412
    for slots, value in [
        ((slot(4, 40), slot(5, 50)), 50),
        ((slot(6, 60), slot(5, 50)), 60),
        ((slot(6, 60), torn), 60),
        ((torn, slot(5, 50)), 50),
    ]:
        guest = Guest(fresh_disk(directory, slots))
        assert f"counter={value} " in guest.ready, guest.ready
        guest.kill()
    guest = Guest(fresh_disk(directory, (torn, torn)), wait_for="both copies of the counter")
    guest.ends_with(PANIC_STATUS)


def check_flood(directory):
    """Without DHCP, under frames of all kinds, the guest still answers ping."""
    path, dice = directory / "net", random.Random(SEED)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        network = f"stream,id=n0,server=off,addr.type=unix,addr.path={path}"
        guest = Guest(fresh_disk(directory), network)
        wire, _ = listener.accept()
    assert "ip=10.0.2.15 " in guest.ready, guest.ready
    frames = []

    def receive():
        stream = wire.makefile("rb")
        while len(head := stream.read(4)) == 4:
            frames.append(stream.read(int.from_bytes(head, "big")))

    threading.Thread(target=receive, daemon=True).start()
    send = lambda frame: wire.sendall(struct.pack(">I", len(frame)) + frame)
    us, them = socket.inet_aton("10.0.2.2"), socket.inet_aton("10.0.2.15")
    our_mac, their_mac = bytes.fromhex("020000000001"), bytes.fromhex("525400123456")

    def checksum(data):
        data += b"\0" * (len(data) % 2)
        total = sum(struct.unpack(f">{len(data) // 2}H", data))
        total = (total >> 16) + (total & 0xFFFF)
        return struct.pack(">H", ~(total + (total >> 16)) & 0xFFFF)

    def arp(mac, address):
        head = struct.pack(">HHBBH", 1, 0x800, 6, 4, 1)
        return b"\xff" * 6 + mac + b"\x08\x06" + head + mac + address + b"\0" * 6 + them

    def ip(protocol, payload, source=us):
        head = struct.pack(">BBHHHBB", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol)
        addresses = source + them
        head += checksum(head + b"\0\0" + addresses) + addresses
        return their_mac + our_mac + b"\x08\x00" + head + payload

    def echo_request(number):
        rest = struct.pack(">HH", 7, number) + b"x" * 56
        return ip(1, b"\x08\0" + checksum(b"\x08\0\0\0" + rest) + rest)

    def segment(flags):
        source = them[:3] + bytes([dice.randrange(20, 250)])
        ports = struct.pack(">HH", dice.randrange(1024, 65536), dice.choice((80, 81, 7777)))
        rest = dice.randbytes(8) + bytes([0x50, flags]) + b"\x20\x00"
        pseudo = source + them + struct.pack(">HH", 6, 20)
        return ip(6, ports + rest + checksum(pseudo + ports + rest + b"\0\0\0\0") + b"\0\0", source)

    def check_alive(after):
        number = dice.randrange(65536)
        for _ in range(10):
            send(arp(our_mac, us))
            send(echo_request(number))
            time.sleep(0.1)
            if any(f[23:24] == b"\x01" and f[40:42] == struct.pack(">H", number) for f in frames):
                frames.clear()
                return
        raise AssertionError(f"no answer to ping after {after}")

    check_alive("the start")
    for name, frame in [
        ("echo requests", lambda: echo_request(dice.randrange(65536))),
        ("noise", lambda: their_mac + our_mac + dice.randbytes(dice.choice((8, 50, 1000, 1502)))),
        ("IP noise", lambda: ip(dice.choice((1, 2, 6, 17)), dice.randbytes(dice.randrange(60)))),
        ("over-long frames", lambda: their_mac + our_mac + dice.randbytes(9000)),
        ("ARP requests", lambda: arp(b"\x02" + dice.randbytes(5), them[:3] + dice.randbytes(1))),
        ("SYNs", lambda: segment(0x02)),
        ("TCP noise", lambda: segment(dice.randrange(64))),
    ]:
        for _ in range(2000):
            send(frame())
        check_alive(name)
    guest.type("poweroff")
    guest.ends_with(0)


def main():
    for check in (check_protocol, check_load, check_kills, check_slots, check_flood):
        print(check.__name__, flush=True)
        with tempfile.TemporaryDirectory() as directory:
            try:
                check(pathlib.Path(directory))
            finally:
                while Guest.started:
                    Guest.started.pop().kill()


if __name__ == "__main__":
    main()
