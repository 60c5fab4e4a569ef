"""Checks on the busybox guests: Debian's kernels to a shell and off again, time, and the digests
of a recorded boot."""

import hashlib
import http.server
import json
import os
import socket
import subprocess
import threading
import time
import urllib.request

from console import Failure

APPEND = "console=ttyS0 panic=-1"
KERNELS = {
    "cloud": ("vmlinuz-cloud", "initrd.gz"),
    "generic": ("vmlinuz-generic", "initrd-generic.gz"),
    "i386": ("vmlinuz-i386", "initrd-i386.gz"),
    "compatibility": ("vmlinuz-cloud", "initrd-i386.gz"),
}


def boot(context, kernel, append=APPEND, options=()):
    """Starts one of the kernels; returns the machine."""
    image, initrd = (os.path.join(context.guests, "linux", name) for name in KERNELS[kernel])
    return context.start(context.emulator.kernel(image, initrd, append, options=options))


def shell_and_poweroff(context, kernel, options=()):
    """To a shell on ttyS0; a pipeline and arithmetic; poweroff with exit status 0."""
    with boot(context, kernel, options=options) as machine:
        ready = machine.expect(r"GUEST-READY ([\d.]+)", 300)
        machine.expect("# ", 60)
        machine.shell()
        if machine.must("seq 1 100 | awk '{ s += $1 * $1 } END { print s }'") != "338350\n":
            raise Failure(f"wrong sum: {machine.tail()}")
        machine.must(
            "dd if=/dev/urandom of=/tmp/a bs=64k count=16 2>/dev/null; "
            "gzip -c /tmp/a | gunzip | cmp - /tmp/a"
        )
        machine.send("poweroff -f\n")
        machine.powered_off()
    return f"ready after {ready[1].decode()} s of guest time"


def cloud_kernel(context):
    """Debian's cloud amd64 kernel with busybox."""
    return shell_and_poweroff(context, "cloud")


def generic_kernel(context):
    """Debian's generic amd64 kernel with busybox."""
    return shell_and_poweroff(context, "generic")


def i386_kernel(context):
    """Debian's 686-pae kernel with an i386 busybox."""
    return shell_and_poweroff(context, "i386")


def compatibility_mode(context):
    """Debian's cloud amd64 kernel with an i386 busybox: programs in compatibility mode."""
    return shell_and_poweroff(context, "compatibility")


BOTH = ("--engine", "both")


def engines_agree(context):
    """The cloud kernel on both engines in lockstep; a log of the JIT replays on the interpreter."""
    note = shell_and_poweroff(context, "cloud", BOTH)
    log, stats = _record(context, "md5sum /bin/busybox", ("--engine", "jit"))
    return f"{note}; {compare_replay(context, log, stats, ('--engine', 'interpreter'))}"


def all_engines_agree(context):
    """The generic and the i386 kernel likewise, and i386 programs on the cloud kernel; a log of the
    interpreter replays on both engines."""
    kernels = ("generic", "i386", "compatibility")
    notes = [shell_and_poweroff(context, kernel, BOTH) for kernel in kernels]
    log, stats = _record(context, "md5sum /bin/busybox", ("--engine", "interpreter"))
    notes += [compare_replay(context, log, stats, ("--engine", name)) for name in ("jit", "both")]
    return "; ".join(notes)


# What udhcpc runs for a lease.
LEASE_SCRIPT = r"""#!/bin/sh
[ "$1" = bound ] || exit 0
ifconfig $interface $ip netmask $subnet
route add default gw $router
echo nameserver $dns > /etc/resolv.conf
echo leased $ip $router $dns for $lease
"""


def _answer_names(server, address):
    """Answers every question on a UDP socket with one IPv4 address."""
    while True:
        try:
            question, client = server.recvfrom(512)
        except OSError:
            return
        end = question.index(0, 12) + 5
        wants_ipv4 = question[end - 4 : end - 2] == b"\0\1"
        head = question[:2] + b"\x85\x80\0\1" + (b"\0\1" if wants_ipv4 else b"\0\0") + bytes(4)
        record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(address)
        server.sendto(head + question[12:end] + (record if wants_ipv4 else b""), client)


class _Files(http.server.BaseHTTPRequestHandler):
    """Serves one file, whatever is asked for."""

    content = b""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *_):
        pass


def lan_services(context):
    """Debian's generic kernel on `ftemu lan`: DHCP, ping, a name, a download and an upload."""
    names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    names.bind(("127.0.0.1", 0))
    threading.Thread(target=_answer_names, args=(names, "10.0.2.2"), daemon=True).start()
    _Files.content = os.urandom(8 << 20)
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Files)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    lan = subprocess.Popen(
        [
            *(context.emulator.path, "lan", "--json"),
            *("--forward", "tcp:127.0.0.1:0-:8000"),
            *("--resolver", f"127.0.0.1:{names.getsockname()[1]}"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        where = json.loads(lan.stdout.readline())
        return _use_services(context, where, web.server_address[1])
    finally:
        lan.terminate()
        lan.wait(10)
        web.shutdown()
        names.close()


def _use_services(context, where, web):
    digest = hashlib.md5(_Files.content).hexdigest()
    options = ("--net", f"stream:{where['listening']}")
    with boot(context, "generic", APPEND + " quiet", options) as machine:
        machine.expect("GUEST-READY", 300)
        machine.expect("# ", 60)
        machine.shell()
        machine.must(f"cat > /tmp/lease <<'END'\n{LEASE_SCRIPT}END\nchmod +x /tmp/lease")
        machine.must("ifconfig lo up; ifconfig eth0 up")
        leased = machine.must("udhcpc -i eth0 -n -q -s /tmp/lease 2>/dev/null | grep leased", 60)
        if leased.split() != "leased 10.0.2.15 10.0.2.2 10.0.2.2 for 86400".split():
            raise Failure(f"DHCP gave {leased!r}")
        machine.must("ping -c 3 10.0.2.2", 60)
        begin = time.monotonic()
        fetched = machine.must(f"wget -q -O - http://host.test:{web}/ | md5sum", 120)
        seconds = time.monotonic() - begin
        if fetched.split()[0] != digest:
            raise Failure(f"the download has the digest {fetched!r}")
        machine.must(
            "mkdir /tmp/www; dd if=/dev/urandom of=/tmp/www/f bs=64k count=64 2>/dev/null; "
            "httpd -p 8000 -h /tmp/www"
        )
        expected = machine.must("md5sum /tmp/www/f").split()[0]
        forward = where["forwards"][0]["host"]
        with urllib.request.urlopen(f"http://{forward}/f", timeout=120) as page:
            if hashlib.md5(page.read()).hexdigest() != expected:
                raise Failure("the upload has another digest")
        # Nobody listens there: the guest is told, and does not wait.
        machine.must("! nc 10.0.2.2 1 </dev/null", 30)
        machine.send("poweroff -f\n")
        machine.powered_off()
    return f"8 MiB in {seconds:.1f} s through NAT"


def _timed_sleep(machine, seconds):
    machine.send(f"echo be''gin; sleep {seconds}; echo e''nd\n")
    machine.expect(r"begin\r?\n", 60)
    begin = time.monotonic()
    machine.expect(r"end\r?\n", seconds * 5 + 60)
    return time.monotonic() - begin


def guest_time(context):
    """`sleep 10` takes 10 s +- 0.1 s on the host, idle and under load; an idle guest uses under 5 %
    of a core."""
    with boot(context, "cloud", APPEND + " quiet") as machine:
        machine.expect("GUEST-READY", 300)
        machine.expect("# ", 60)
        machine.shell()
        time.sleep(2)
        before = machine.cpu_seconds()
        idle = _timed_sleep(machine, 10)
        share = (machine.cpu_seconds() - before) / idle
        machine.must("while :; do :; done & echo started")
        time.sleep(3)
        busy = _timed_sleep(machine, 10)
        # Busybox's shell takes a SIGCHLD during its read for the end of its input: reap here.
        machine.must("kill %1; wait")
        machine.send("poweroff -f\n")
        machine.powered_off()
    seen = f"idle {idle:.3f} s at {share:.1%} of a core, busy {busy:.3f} s"
    if max(abs(idle - 10), abs(busy - 10)) > 0.1 or share > 0.05:
        raise Failure(seen)
    return seen


def clock_drift(context):
    """Over ten minutes the guest's clock stays within 50 ms of the host's."""
    minutes = float(os.environ.get("REAL_DRIFT_MINUTES", "10"))
    offsets = []
    with boot(context, "cloud", APPEND + " quiet") as machine:
        machine.expect("GUEST-READY", 300)
        machine.expect("# ", 60)
        machine.shell()
        end = time.monotonic() + minutes * 60
        rounds = 0
        while time.monotonic() < end:
            # Every other stretch is busy, so that both pacings are seen.
            machine.must(
                f"timeout 5 sh -c '{'while :; do :; done' if rounds % 2 else 'sleep 60'}'; true",
                120,
            )
            rounds += 1
            offsets.append(offset(machine))
        machine.send("poweroff -f\n")
        machine.powered_off()
    apart = max(offsets) - min(offsets)
    seen = f"at most {apart * 1000:.0f} ms apart in {minutes:g} minutes, {rounds} readings"
    if apart > 0.05:
        raise Failure(seen)
    return seen


def offset(machine):
    """The guest's clock less the host's, in seconds. A reading takes 74 ms, for the serial port has
    a speed; one that takes longer than 110 says too little and is taken again."""
    for _ in range(20):
        sent = time.monotonic()
        text = machine.must("awk '/^now at/ { print $3; exit }' /proc/timer_list")
        received = time.monotonic()
        if received - sent < 0.11:
            return int(text) / 1e9 - (sent + received) / 2
    raise Failure("the host is too busy: no reading of the clock took less than 110 ms")


def idle_log(context):
    """The log of an idle minute adds under 20 kB."""
    log = os.path.join(context.work, "idle.log")
    with boot(context, "cloud", APPEND + " quiet", ("--record", log)) as machine:
        machine.expect("GUEST-READY", 300)
        machine.expect("# ", 60)
        machine.shell()
        time.sleep(3)
        begin = os.path.getsize(log)
        time.sleep(60)
        machine.send("poweroff -f\n")
        machine.powered_off()
    # Only the end of the run is sure to have written everything; so this is an upper bound.
    grown = os.path.getsize(log) - begin
    if grown > 20_000:
        raise Failure(f"{grown} bytes in a minute")
    return f"{grown} bytes in an idle minute and the power-off"


def _record(context, command, options=()):
    """Records a boot of the cloud kernel that runs command; returns the paths of log and stats."""
    log, stats = os.path.join(context.work, "boot.log"), os.path.join(context.work, "boot.json")
    options = ("--record", log, "--stats", stats, *options)
    with boot(context, "cloud", f'{APPEND} run="{command}"', options) as machine:
        machine.expect("GUEST-EXIT 0", 900)
        machine.powered_off()
    return log, stats


def recorded_boot(context):
    """A recorded boot of the cloud kernel replays: every digest equal, the same final state."""
    return compare_replay(context, *_record(context, "md5sum /bin/busybox"))


def random_slices(context):
    """A recorded run of 3 G instructions and more replays likewise in 20 random slicings."""
    work = "for i in $(seq 4); do md5sum /bin/busybox; gzip -c /bin/busybox; done >/dev/null"
    log, stats = _record(context, work)
    if _read(stats)["icount"] < 3_000_000_000:
        raise Failure(f"the run has only {_read(stats)['icount']:,} instructions")
    count = int(os.environ.get("REAL_SLICES", "20"))
    for seed in range(1, count + 1):
        note = compare_replay(context, log, stats, ("--slice-seed", str(seed)))
    return f"{count} slicings; the last one: {note}"


def _read(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def compare_replay(context, log, stats, options=()):
    """Replays log; its end must be that of the recorded run."""
    again = stats + ".replay"
    with context.start(context.emulator.replay(log, ("--stats", again, *options))) as machine:
        machine.powered_off(1800)
    recorded, replayed = _read(stats), _read(again)
    for key in ("icount", "digest"):
        if recorded[key] != replayed[key]:
            raise Failure(f"{key}: {recorded[key]} recorded, {replayed[key]} replayed")
    return (
        f"{recorded['icount']:,} instructions, log {os.path.getsize(log):,} bytes, "
        f"recorded at {recorded['mips']:.0f} MIPS, replayed at {replayed['mips']:.0f}"
    )
