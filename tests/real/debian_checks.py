"""Checks on debian.img: a login over serial and over ssh, and the programs that a user would run
there."""

import hashlib
import os
import re
import time

from console import Failure
from linux_checks import BOTH, compare_replay
from netns import Namespace

PYTHON_TESTS = ("test_math", "test_struct", "test_hashlib", "test_json", "test_zlib")

# What a guest is given, in MiB; the emulator may use 96 more.
GUEST_MIB = 1024

# 64-bit integers, floating point with libm, sorting, and varargs: the output is the same on every
# x86-64.
C_PROGRAM = r"""
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
static int by_value(const void *a, const void *b) { return *(const int *)a - *(const int *)b; }
int main(void) {
    unsigned long long h = 14695981039346656037ull;
    for (int i = 0; i < 100000; i++) h = (h ^ (i & 255)) * 1099511628211ull;
    double s = 0;
    for (int i = 1; i < 1000; i++) s += sqrt(i) * sin(i);
    int v[64];
    for (int i = 0; i < 64; i++) v[i] = (i * 37) % 64;
    qsort(v, 64, sizeof *v, by_value);
    printf("%llx %.9f %d %d %.15Lg\n", h, s, v[0], v[63], 1.0L / 3);
    return 0;
}
"""


def image(context):
    """The path of debian.img."""
    return os.path.join(context.guests, "debian", "debian.img")


def log_in(context, tap=None, options=(), inside=lambda argv: argv):
    """Boots debian.img to the automatic login on ttyS0; returns machine and scripted shell."""
    machine = context.start(
        inside(context.emulator.disk(image(context), f"{GUEST_MIB}M", tap, options))
    )
    try:
        machine.expect(r"GUEST-READY ([\d.]+)", 900)
        machine.at = 0
        machine.expect(r"login: root \(automatic login\)", 300)
        machine.expect("# ", 120)
        machine.shell(120)
    except BaseException:
        machine.close()
        raise
    return machine


def expected_of_c_program(context):
    """What the program prints when it is compiled and run on this machine, or None without a
    compiler."""
    source, program = os.path.join(context.work, "p.c"), os.path.join(context.work, "p")
    with open(source, "w", encoding="ascii") as file:
        file.write(C_PROGRAM)
    if context.host(["gcc", "-O2", "-o", program, source, "-lm"]).returncode != 0:
        return None
    return context.host([program]).stdout


def compile_and_run(context, must):
    """Compiles and runs a C program through must(command, timeout)."""
    must("cat >/tmp/p.c <<'EOF'" + C_PROGRAM + "EOF\n", 60)
    must("gcc -O2 -o /tmp/p /tmp/p.c -lm", 600)
    got, expected = must("/tmp/p", 60), expected_of_c_program(context)
    if expected is not None and got != expected:
        raise Failure(f"the C program printed {got!r}, on this machine {expected!r}")
    return got.strip()


def serial_session(context):
    """Serial login: C, python's tests, redis-benchmark, sqlite, nginx; poweroff with status 0."""
    notes = []
    with log_in(context) as machine:
        notes.append(f"login after {time.monotonic() - machine.started:.0f} s")
        failed = machine.run("systemctl --failed --no-legend --plain")[1].strip()
        if failed:
            raise Failure(f"failed units: {failed}")
        notes.append("C: " + compile_and_run(context, machine.must))
        begin = time.monotonic()
        output = machine.must("python3 -m test " + " ".join(PYTHON_TESTS), 3600)
        if "Result: SUCCESS" not in output and "Tests result: SUCCESS" not in output:
            raise Failure(f"python's tests: {output[-1500:]}")
        notes.append(f"python tests in {time.monotonic() - begin:.0f} s")
        output = machine.must("redis-benchmark -q -n 2000 -t ping,set,get,lpush", 900)
        rates = re.findall(r"([A-Z_]+): ([\d.]+) requests per second", output)
        if len(rates) < 4:
            raise Failure(f"redis-benchmark: {output[-1500:]}")
        notes.append("redis " + ", ".join(f"{name} {float(rate):.0f}/s" for name, rate in rates))
        total = machine.must(
            'sqlite3 /tmp/t.db "create table t(a,b); with recursive c(x) as (select 1 union all '
            "select x+1 from c where x<5000) insert into t select x,x*x from c; "
            'select sum(b) from t;"',
            120,
        )
        if total.strip() != str(sum(x * x for x in range(1, 5001))):
            raise Failure(f"sqlite3 printed {total!r}")
        machine.must("curl -sf http://127.0.0.1/ | grep -q nginx", 120)
        peak = machine.peak_kib() / 1024
        notes.append(f"{peak:.0f} MiB resident")
        if context.emulator.lean and peak > GUEST_MIB + 96:
            raise Failure(f"{peak:.0f} MiB resident for {GUEST_MIB} MiB of guest memory")
        machine.send("poweroff\n")
        machine.powered_off(600)
    return "; ".join(notes)


def engines_agree(context):
    """debian.img on both engines in lockstep: a login, C, python's test_math, redis-benchmark."""
    with log_in(context, options=BOTH) as machine:
        login = time.monotonic() - machine.started
        compile_and_run(context, machine.must)
        output = machine.must("python3 -m test test_math", 3600)
        if "Result: SUCCESS" not in output and "Tests result: SUCCESS" not in output:
            raise Failure(f"python's tests: {output[-1500:]}")
        machine.must("redis-benchmark -q -n 2000 -t ping,set,get,lpush", 1800)
        machine.send("poweroff\n")
        machine.powered_off(900)
    return f"login after {login:.0f} s, {time.monotonic() - machine.started:.0f} s in all"


def ssh_command(context, namespace, command):
    """The command line of ssh into the guest."""
    files = os.path.join(context.guests, "debian")
    return [
        "ssh",
        "-F",
        "none",
        "-i",
        os.path.join(files, "ssh_key"),
        "-o",
        "BatchMode=yes",
        "-o",
        "UserKnownHostsFile=" + os.path.join(files, "known_hosts"),
        "-o",
        "StrictHostKeyChecking=yes",
        "-o",
        "ConnectTimeout=60",
        f"root@{namespace.guest}",
        command,
    ]


def ssh_session(context):
    """ssh over a TAP device: C, a file there and back, HTTP; poweroff."""
    with (
        Namespace() as namespace,
        log_in(context, tap=namespace.tap, inside=namespace.inside) as machine,
    ):

        def must(command, timeout):
            done = namespace.run(ssh_command(context, namespace, command), timeout * machine.factor)
            if done.returncode != 0:
                output = done.stdout + done.stderr
                raise Failure(f"{command.split()[0]} over ssh: {done.returncode}\n{output}")
            return done.stdout

        machine.must("ping -c 3 -W 20 10.0.2.2", 120)
        if must("echo hello $((6 * 7))", 120) != "hello 42\n":
            raise Failure("echo over ssh printed something else")
        notes = ["C over ssh: " + compile_and_run(context, must)]
        blob = os.path.join(context.work, "blob")
        with open(blob, "wb") as file:
            file.write(bytes((i * i >> 3) & 255 for i in range(2_000_000)))
        begin = time.monotonic()
        with open(blob, "rb") as file:
            digest = hashlib.sha256(file.read()).hexdigest()
        shell = " ".join(
            f"'{word}'"
            for word in ssh_command(context, namespace, "cat >/root/blob; sync; cat /root/blob")
        )
        done = namespace.run(["bash", "-c", f"{shell} <'{blob}' | sha256sum"], 600 * machine.factor)
        if digest not in done.stdout:
            raise Failure(f"a file came back changed: {done.stdout}{done.stderr}")
        notes.append(f"2 MB there and back in {time.monotonic() - begin:.1f} s")
        page = namespace.run(
            [
                "python3",
                "-c",
                "import urllib.request as u; "
                f"print(u.urlopen('http://{namespace.guest}/', timeout=60).read().decode())",
            ],
            120,
        )
        if "nginx" not in page.stdout:
            raise Failure(f"nginx answered {page.stdout}{page.stderr}")
        namespace.run(ssh_command(context, namespace, "systemctl poweroff"), 120)
        machine.powered_off(600)
    return "; ".join(notes)


def recorded_session(context):
    """A recorded session with typing, network traffic and disk writes replays with every digest
    equal."""
    log, stats = (
        os.path.join(context.work, "session.log"),
        os.path.join(context.work, "session.json"),
    )
    options = ("--record", log, "--stats", stats)
    with Namespace() as namespace:
        with log_in(
            context, tap=namespace.tap, inside=namespace.inside, options=options
        ) as machine:
            machine.must("ping -c 3 -W 20 10.0.2.2", 120)
            namespace.run(
                ssh_command(
                    context, namespace, "dd if=/dev/urandom of=/root/r bs=64k count=32; sync"
                ),
                300,
            )
            machine.must(
                "sha256sum /root/r && redis-cli set a b && python3 -c 'print(2 ** 200)'", 300
            )
            machine.send("poweroff\n")
            machine.powered_off(600)
    return compare_replay(context, log, stats)
