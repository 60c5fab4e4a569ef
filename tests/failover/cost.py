#!/usr/bin/env python3
"""What protection costs: FT / non-FT of ftemu itself, measured side by side.

  tests/failover/cost.py target/release/ftemu                      everything, medians of 5
  tests/failover/cost.py target/release/ftemu --guest linux cpu receive --rounds 3 --scale 0.2

Two guests (debian.img, or a small Linux without compiler and redis) run all the time, each in
network namespaces of its own: one alone (`ftemu boot`), one as a pair (primary and backup). Work is
given to them in turn, so that what else the computer does hurts both alike; a ratio is the median
of (time alone / time as a pair) of the rounds, and beside it the same ratio of the processor time of
the process alone to that of the primary and of the backup, which does not change when clients,
switch and both sides share two processors. Of the pair, the status is read during each work: log
bytes per 1,000 instructions, lag of the backup, round trip of the acknowledgement. With `--control`
the pair is also compared with two machines that do the same at the same time and know nothing of
each other. Where neighbours slow the processors down for seconds at a time, take many short rounds
and read `best_ratio`: the shortest time alone over the shortest as a pair, and `net_ratio`: without
the time that the primary stood still because its backup was behind. With `--pin` the machines alone
and the primary share one processor, by turns, and the backup has the other, as has the second of
two machines at once. `idle`, `latency` and `join` measure the log of an idle guest, what protection
adds to a ping and to a redis PING, and joining under load. `receive` has 100 MB at scale 1. The
clients run when they have something to do (SCHED_FIFO, with the right to it), as on a computer of
their own, and nobody watches the frames. A pair keeps a speed of its own for as long as it runs:
start this several times. Needs what run.py --world tap needs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time

import echo
import hosts
from clients import Redis
from guests import MEASURED
from run import Context, deliver, keep, place_to_work
from sides import Failure
from workloads import WORKLOADS
from worlds import TapWorld

EXTRAS = ("idle", "latency", "join")
KINDS = ("alone", "pair", "other")


class Sampler:
    """Reads the live side's status every 50 ms while some work is done."""

    def __init__(self, side):
        self.side, self.seen, self._stop = side, [], threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self.first = self.side.status()
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        self.last = self.side.status()

    def _run(self):
        while not self._stop.wait(0.05):
            self.seen.append(self.side.status())

    def grown(self, key):
        """By how much a counter of the status grew."""
        return self.last.get(key, 0) - self.first.get(key, 0)

    def p(self, key, percent):
        """A percentile of a number of the status."""
        values = sorted(status.get(key, 0) for status in self.seen) or [0]
        return values[min(len(values) - 1, int(len(values) * percent / 100))]


class Served:
    """The child's end: one world, and what is done in it on request."""

    def __init__(self, context, kind, guest, scale, pin):
        self.kind, self.world = kind, TapWorld(context, guest)
        self.pair = self.world.pair
        self.world.unwatch()
        begin = time.monotonic()
        if kind == "pair":
            self.joined = self.pair.begin()
        else:
            self.pair.alone()
        self.world.reachable()
        self.took = time.monotonic() - begin
        if guest == "linux":
            self.world.guest.prepare(self.world)
        if pin:
            self.pair.side(self.pair.live).pin(1 if kind == "other" else 0)
            if kind == "pair":
                self.pair.side(self.pair.other(self.pair.live)).pin(1)
        self.works = {name: make(self.world, scale) for name, make in WORKLOADS.items()}
        self.ready = set()

    def do(self, name):
        """Does one thing; returns what was measured."""
        if name in WORKLOADS:
            return self.work(self.works[name])
        return getattr(self, name)()

    def make_ready(self, name):
        """Prepares a workload, the first time."""
        if name not in self.ready:
            self.ready.add(name)
            self.works[name].prepare()

    def work(self, work):
        """One run of a workload."""
        self.make_ready(work.name)
        sides = [self.pair.side(self.pair.live)]
        if self.kind != "pair":
            before = sides[0].cpu_seconds()
            return {"s": work.run(), "cpu_s": sides[0].cpu_seconds() - before}
        sides.append(self.pair.side(self.pair.other(self.pair.live)))
        before = [side.cpu_seconds() for side in sides]
        with Sampler(sides[0]) as sampler:
            seconds = work.run()
        used = [side.cpu_seconds() - then for side, then in zip(sides, before)]
        instructions, log = sampler.grown("icount"), sampler.grown("log_bytes")
        result = {
            "s": seconds,
            "cpu_s": used[0],
            "backup_cpu_s": used[1],
            "log_bytes": log,
            "bytes_per_1000": 1000 * log / max(1, instructions),
            "lag_ms_p99": sampler.p("lag_ns", 99) / 1e6,
            "ack_us_p50": sampler.p("ack_latency_us", 50),
            "slowed_s": sampler.grown("slowed_ns") / 1e9,
        }
        if work.name == "receive":
            result["log_per_payload"] = log / work.size
        return result

    def idle(self):
        """Half a minute of nothing."""
        if self.kind != "pair":
            return {}
        time.sleep(10)
        with Sampler(self.pair.side(self.pair.live)) as sampler:
            time.sleep(30)
        return {"bytes_per_s": sampler.grown("log_bytes") / 30}

    def latency(self):
        """Pings and redis PINGs, and the round trip between the two hosts."""
        pings = echo.round_trips(hosts.GUEST, 500, 0.005)
        redis = {"redis": _p(self.asks())} if self.world.guest.name == "debian" else {}
        with self.pair.hosts[0].inside():
            channel = echo.round_trips(self.pair.hosts[1].address, 200, 0.005)
        return {"ping": _p(pings), **redis, "channel": _p(channel)}

    def asks(self):
        """Round trips of redis PINGs."""
        self.make_ready("redis")
        client = Redis(self.world.place(6379))
        client.open()
        asks = []
        for _ in range(500):
            begin = time.monotonic()
            client.ask("PING")
            asks.append(time.monotonic() - begin)
            time.sleep(0.003)
        client.close()
        return asks

    def join(self):
        """The backup is killed under load, and a new one joins."""
        if self.kind != "pair":
            return {}
        self.make_ready("redis")
        work, place = self.world.guest, self.world.place
        load = subprocess.Popen(
            [*work.ssh(place), "while :; do head -c 50M /dev/urandom | gzip >/root/load; done"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        time.sleep(5)
        client = Redis(place(6379)).start()
        try:
            self.pair.side(self.pair.other(self.pair.live)).kill()
            time.sleep(3)
            begin = time.monotonic()
            seconds = self.pair.join()
            time.sleep(1)
            told = self.pair.side(self.pair.live).transfers()[-1]
            pause = client.silence(begin, after=seconds)
        finally:
            client.stop()
            load.kill()
            load.wait()
        told = dict(zip(("transfer_ms", "rounds", "bytes", "standstill_ms"), told))
        return {"join_s": seconds, "felt_pause_ms": 1000 * pause, **told}


def _p(seconds):
    """p50 and p99 in microseconds."""
    values = sorted(value for value in seconds if value is not None)
    if len(values) < 0.9 * len(seconds):
        raise Failure(f"only {len(values)} of {len(seconds)} answers")
    return {"p50_us": 1e6 * values[len(values) // 2], "p99_us": 1e6 * values[-len(values) // 100]}


def serve(given):
    """The child: makes its world, then does what it reads."""
    hosts.seclude()
    os.makedirs(given.work, exist_ok=True)
    served = None
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    try:
        context = Context(given.ftemu, given.work, always=given.option)
        served = Served(context, given.serve, given.guest, given.scale, given.pin)
        print(json.dumps({"ready_s": served.took}), file=answers)
        for line in sys.stdin:
            print(json.dumps(served.do(line.strip())), file=answers)
    except (Failure, OSError, RuntimeError) as failure:
        print(json.dumps({"error": f"{type(failure).__name__}: {failure}"}), file=answers)
    finally:
        if served:
            served.world.end()
    return 0


class Serving:
    """The parent's end of a child."""

    def __init__(self, given, kind, work):
        self.kind = kind
        scale = ["--scale", str(given.scale), "--work", os.path.join(work, kind)]
        scale += ["--guest", given.guest, *(f"--option={word}" for word in given.option)]
        scale += ["--pin"] if given.pin else []
        argv = [sys.executable, os.path.realpath(__file__), given.ftemu, "--serve", kind, *scale]
        pipe = subprocess.PIPE
        self.child = subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True, bufsize=1)

    def answer(self):
        """What the child says."""
        line = self.child.stdout.readline()
        answer = json.loads(line) if line else {"error": "it ended"}
        if "error" in answer:
            raise Failure(f"{self.kind}: {answer['error']}")
        return answer

    def ask(self, name):
        """Has it begin something; the answer tells when it is done."""
        self.child.stdin.write(name + "\n")

    def do(self, name):
        """Has it do something."""
        self.ask(name)
        return self.answer()

    def end(self):
        """Ends it, and all that it started."""
        self.child.stdin.close()
        try:
            self.child.wait(20)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


def summary(rounds):
    """Of (alone, pair, two at once) of each round what is worth a line."""
    alone, pair, two = zip(*rounds)
    rounds = list(zip(alone, pair))
    median = statistics.median
    if "channel" in pair[0]:
        return {
            name: {
                "alone_us": round(median(a[name]["p50_us"] for a in alone)),
                "pair_us": round(median(b[name]["p50_us"] for b in pair)),
                "added_us": [round(b[name]["p50_us"] - a[name]["p50_us"]) for a, b in rounds],
            }
            for name in pair[0]
        }
    if "s" not in pair[0]:
        return {"alone": alone[-1], "pair": pair[-1]}
    result = {
        "ratio": round(median(a["s"] / b["s"] for a, b in rounds), 3),
        "best_ratio": round(min(a["s"] for a in alone) / min(b["s"] for b in pair), 3),
        "net_ratio": round(median(a["s"] / (b["s"] - b["slowed_s"]) for a, b in rounds), 3),
        "alone_s": round(median(a["s"] for a in alone), 2),
        "pair_s": round(median(b["s"] for b in pair), 2),
        "ratios": [round(a["s"] / b["s"], 3) for a, b in rounds],
        "cpu_ratio": round(median(a["cpu_s"] / b["cpu_s"] for a, b in rounds), 3),
        "backup_cpu_ratio": round(median(a["cpu_s"] / b["backup_cpu_s"] for a, b in rounds), 3),
    }
    if None not in two:
        result["two_ratio"] = round(median(a["s"] / b for a, b in zip(alone, two)), 3)
        result["best_two_ratio"] = round(min(a["s"] for a in alone) / min(two), 3)
        result["ratio_to_two"] = round(median(a / b["s"] for a, b in zip(two, pair)), 3)
    for key in pair[0]:
        values = [one[key] for one in pair if one[key] is not None]
        if key not in ("s", "cpu_s", "backup_cpu_s") and values:
            result[key] = float(f"{median(values):.3g}")
    return result


def measure(given, sides):
    """All rounds of all that was asked for."""
    alone, pair, *others = sides
    results = {}
    for name in given.work_names:
        controls = others if name in WORKLOADS else []
        for other in controls:
            other.do(name)
        rounds = [
            (alone.do(name), pair.do(name), at_once(name, [alone, *controls]))
            for _ in range(rounds_of(name, given))
        ]
        if given.rows:
            for row in rounds:
                print(json.dumps(row), flush=True)
        results[name] = summary(rounds)
        print(f"{name:8} {json.dumps(results[name])}", flush=True)
    return results


def at_once(name, sides):
    """Seconds that the slower of two takes that do the same at the same time; None for one."""
    if len(sides) < 2:
        return None
    for side in sides:
        side.ask(name)
    return max(side.answer()["s"] for side in sides)


def rounds_of(name, given):
    """What has no need of a second look is measured once."""
    return 1 if name in ("idle", "join") else given.rounds


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ftemu", help="path of ftemu")
    parser.add_argument("work_names", nargs="*", metavar="WORK", help=f"{[*WORKLOADS, *EXTRAS]}")
    parser.add_argument("--guest", choices=MEASURED, default="debian")
    parser.add_argument("--rounds", type=int, default=5, help="of each work")
    parser.add_argument("--scale", type=float, default=1.0, help="of each work's size")
    parser.add_argument("--rows", action="store_true", help="print each round")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        help="an option for all machines, alone and as a pair, as --option=--engine=jit",
    )
    parser.add_argument(
        "--control",
        action="store_true",
        help="a third guest, alone, does the same work at the same time as the first: what two"
        " machines get that know nothing of each other (two_ratio, ratio_to_two)",
    )
    parser.add_argument("--pin", action="store_true", help="alone and primary on processor 0")
    parser.add_argument("--json", help="write the results to this file")
    parser.add_argument("--work", help="directory for images and messages")
    parser.add_argument("--serve", choices=KINDS, help=argparse.SUPPRESS)
    given = parser.parse_intermixed_args()
    if given.serve:
        return serve(given)
    able = [name for name, work in WORKLOADS.items() if given.guest in work.guests]
    able += EXTRAS if given.guest == "debian" else EXTRAS[:2]
    given.work_names = given.work_names or able
    if unknown := [name for name in given.work_names if name not in able]:
        parser.error(f"no such work: {', '.join(unknown)}")
    if why := hosts.why_not():
        print(f"left out: no namespaces with TAP devices here: {why}")
        return 77
    work = given.work or place_to_work()
    sides = [Serving(given, kind, work) for kind in KINDS[: 3 if given.control else 2]]
    try:
        for side in sides:
            print(f"{side.kind}: ready after {side.answer()['ready_s']:.0f} s", flush=True)
        results = measure(given, sides)
    except Failure as failure:
        print(f"FAILED: {failure}\nmessages and consoles are in {work}")
        keep(work)
        return 1
    finally:
        for side in sides:
            side.end()
    return deliver(results, given, work)


if __name__ == "__main__":
    sys.exit(main())
