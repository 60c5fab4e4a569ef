"""What happens to the pair, and what must hold afterwards.

Each scenario is given a World whose pair is protected and whose clients are at work, leaves it so
(but for the last one), and returns what it measured as a dictionary. Anything that a client saw, a
second emitter, or a pair that does not become whole again is a Failure.
"""

import random
import signal
import statistics
import time

from clients import PATIENCE
from sides import LIVE, Failure, key_file


def percentiles(values):
    """Median, 90th percentile and maximum, rounded."""
    ordered = sorted(values)
    if not ordered:
        return {}
    p90 = ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))]
    numbers = (statistics.median(ordered), p90, ordered[-1])
    return dict(zip(("median", "p90", "max"), (round(number, 1) for number in numbers)))


class Report:
    """Gaps of each client and times of joining over many failovers."""

    def __init__(self):
        self.gaps, self.joins, self.pauses, self.still, self.spoke = {}, [], [], [], []
        self.usual = {}

    def failover(self, world, moment):
        """Notes the pauses after moment."""
        world.settle(moment)
        for name, gap in world.silences(moment).items():
            self.gaps.setdefault(name, []).append(gap)
        for client in world.clients:
            if client.gaps:
                self.usual.setdefault(client.name, []).append(1000 * client.usual(moment))
        spoke = world.emissions.first_of_last() if world.emissions else None
        if spoke and spoke > moment:
            self.spoke.append(1000 * (spoke - moment))
        world.check()

    def join(self, world):
        """Lets a new backup join, and notes how long it took and what the clients felt."""
        begin = time.monotonic()
        self.joins.append(world.pair.join())
        took = time.monotonic() - begin
        self.still.append(world.pair.side(world.pair.live).transfers()[-1][3])
        felt = [c.silence(begin, after=took) for c in world.clients if c.gaps and c.replies]
        self.pauses.append(1000 * max((gap for gap in felt if gap < 60), default=0))
        world.check()

    def result(self, world):
        """All of it."""
        return {
            "failovers": len(self.joins),
            "new_side_speaks_after_ms": percentiles(self.spoke),
            "gap_ms": {name: percentiles(gaps) for name, gaps in self.gaps.items()},
            "longest_in_second_before_ms": {n: percentiles(g) for n, g in self.usual.items()},
            "gaps_ms": {name: [round(g) for g in gaps] for name, gaps in self.gaps.items()},
            "join_s": percentiles(self.joins),
            "standstill_ms": percentiles(self.still),
            "longest_pause_while_joining_ms": percentiles(self.pauses),
            "rounds": {client.name: client.rounds for client in world.clients},
        }


def emitters(world, before, failovers):
    """No more stretches of one speaker than failovers allow: never two at a time."""
    if world.emissions is None:
        return
    runs = world.emissions.runs()
    if len(runs) - before > failovers:
        told = ", ".join(f"{h} {b - a:.3f} s ({n})" for h, a, b, n in runs[before - 1 :])
        raise Failure(f"more than one host spoke for the guest: {told}")


def stretches(world):
    """How many there were so far."""
    return len(world.emissions.runs()) if world.emissions else 0


def control(world, _count=1):
    """A machine without a pair: its clients are content until it is killed, and each of them
    notices then. Shows that the others could fail."""
    world.pair.alone()
    world.reachable()
    world.guest.prepare(world.place)
    rounds = world.connect()
    moment = world.pair.side(world.pair.live).kill()
    deadline = moment + 2 * PATIENCE
    while quiet := [client.name for client in world.clients if client.error is None]:
        if time.monotonic() > deadline:
            raise Failure(f"killed, and not noticed by {', '.join(quiet)}")
        time.sleep(0.1)
    world.clients = []
    return {"rounds": rounds, "noticed_after_s": round(time.monotonic() - moment, 1)}


def kills(world, count):
    """SIGKILL for the live side at any instant; a new backup joins after each."""
    report, chance, before = Report(), random.Random(count), stretches(world)
    for _ in range(count):
        time.sleep(chance.uniform(0.3, 1.5))
        report.failover(world, world.pair.kill_live())
        report.join(world)
    emitters(world, before, count)
    return report.result(world)


def _stops(side, what, seconds=30):
    """The loser ends by itself, not as if all were well, and says why."""
    status = side.exited(seconds)
    if status <= 0:
        raise Failure(f"{what}: the loser ended with {status}\n{side.tail()}")
    return status


def silence(world, count):
    """The live host's cable is pulled: no packet tells anybody; later it is put back."""
    _needs_cables(world)
    report, before, statuses = Report(), stretches(world), set()
    for _ in range(count):
        time.sleep(1)
        host, loser = world.pair.live, world.pair.side(world.pair.live)
        moment = time.monotonic()
        host.pull()
        world.pair.taken_over()
        report.failover(world, moment)
        host.plug()
        statuses.add(_stops(loser, "silence"))
        report.join(world)
    emitters(world, before, count)
    return {**report.result(world), "loser_status": sorted(statuses)}


def hang(world, count):
    """The live side is stopped, and goes on when the other one is live: it must end, and say
    nothing more for the guest."""
    report, before, statuses = Report(), stretches(world), set()
    for _ in range(count):
        time.sleep(1)
        loser = world.pair.side(world.pair.live)
        moment = loser.signal(signal.SIGSTOP)
        world.pair.taken_over()
        report.failover(world, moment)
        loser.signal(signal.SIGCONT)
        statuses.add(_stops(loser, "hang"))
        report.join(world)
    emitters(world, before, count)
    return {**report.result(world), "loser_status": sorted(statuses)}


# Which of primary-backup, primary-arbiter and backup-arbiter are cut, each direction by itself:
# > from the first to the second, < back, = both. Then who may be live: P and B; none: nobody until
# it is healed.
PARTITIONS = (
    ("", "", "", "P"),
    ("", "=", "", "P"),
    ("", "", "=", "P"),
    ("", "=", "=", "P"),
    ("=", "", "", "PB"),
    ("=", "=", "", "B"),
    ("=", "", "=", "P"),
    ("=", "=", "=", ""),
    (">", "", "", "PB"),
    ("<", "", "", "PB"),
    (">", "=", "", "B"),
    ("<", "=", "", "B"),
    (">", "", "=", "P"),
    ("<", "", "=", "P"),
)


def _cut(first, second, how):
    if how in (">", "="):
        first.lose(second)
    if how in ("<", "="):
        second.lose(first)


def partitions(world, _count):
    """Every combination of the three links up or down: one emitter at most, and one live side
    exactly where the rules allow it."""
    _needs_cables(world)
    rows, report = {}, Report()
    for pb, pa, ba, allowed in PARTITIONS:
        name = f"P{pb or '-'}B P{pa or '-'}A B{ba or '-'}A"
        rows[name] = _partition(world, report, (pb, pa, ba), allowed)
    return {"table": rows, **report.result(world)}


def _partition(world, report, cuts, allowed):
    pair, arbiter = world.pair, world.witness
    live, backup = pair.live, pair.other(pair.live)
    before, moment = stretches(world), time.monotonic()
    for first, second, how in zip((live, live, backup), (backup, arbiter, arbiter), cuts):
        _cut(first, second, how)
    time.sleep(6)
    roles = {"P": pair.side(live).role(), "B": pair.side(backup).role()}
    alive = "".join(side for side, role in roles.items() if role in LIVE)
    if len(alive) > 1 or not set(alive) <= set(allowed) or (allowed and not alive):
        raise Failure(f"cut {cuts}: {roles}; live may be {allowed or 'nobody'}")
    world.lan.heal()
    if not cuts[0]:
        if roles["P"] != "primary" or roles["B"] in (*LIVE, "gone"):
            raise Failure(f"cut {cuts}: {roles} although the two reach each other")
        return "unchanged"
    winner = _healed(world, live, backup)
    world.settle(time.monotonic())
    emitters(world, before, 1 if winner == "B" else 0)
    report.join(world)
    return f"{alive or 'nobody'} live, then {winner} ({time.monotonic() - moment:.0f} s)"


def _healed(world, live, backup):
    """After the links are back exactly one side is live, and the other one ends."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        ended = [host for host in (live, backup) if world.pair.side(host).child.poll() is not None]
        if len(ended) == 1:
            world.pair.live = world.pair.other(ended[0])
            return "P" if ended[0] is backup else "B"
        if world.pair.side(live).role() == "primary":
            raise Failure("the two are a pair again without a joining")
        time.sleep(0.1)
    roles = [world.pair.side(host).role() for host in (live, backup)]
    raise Failure(f"after healing nobody has stopped: {roles}")


def netem(world, minutes):
    """Minutes on bad cables (5 ms, jitter, 1 % loss) without a failover; then kills."""
    pair, before = world.pair, stretches(world)
    begin, end, acks = time.monotonic(), 60 * minutes, []
    while time.monotonic() - begin < end:
        time.sleep(1)
        world.check()
        acks.append(pair.side(pair.live).status().get("ack_latency_us", 0) / 1000)
        if (role := pair.side(pair.live).role()) != "primary":
            raise Failure(f"a false alarm after {time.monotonic() - begin:.0f} s: {role}")
    emitters(world, before, 0)
    # Lost packets make pauses of their own: retransmission timers of the client and of the guest.
    usual = {c.name: round(1000 * c.silence(begin, after=end)) for c in world.clients if c.gaps}
    calm = {"calm_minutes": minutes, "ack_ms": percentiles(acks), "longest_pause_ms": usual}
    return {**calm, **kills(world, 3)}


def joining(world, count):
    """A backup is killed at any instant of its joining: nothing is harmed, and the next one joins."""
    report, chance, before = Report(), random.Random(count), stretches(world)
    backup = world.pair.other(world.pair.live)
    for n in range(count):
        world.pair.side(backup).kill()
        time.sleep(0.5)
        side = world.pair.start(backup, "backup")
        time.sleep(chance.uniform(0, 2.0 * (n + 1) / count))
        report.failover(world, side.kill())
        report.join(world)
    emitters(world, before, 0)
    return report.result(world)


def strangers(world, _count):
    """A backup with another key or another memory size is refused in a clear line, and the running
    side is not disturbed."""
    pair, said = world.pair, {}
    host, before = pair.other(pair.live), stretches(world)
    other_key = key_file(world.context.work, "other.key", bytes(32))
    pair.side(host).kill()
    for what, words in (("key", ["--key", other_key]), ("memory", ["-m", "96M"])):
        side = pair.start(host, "backup", instead=words)
        time.sleep(3)
        world.check()
        if (role := pair.side(pair.live).role()) != "solo":
            raise Failure(f"the live side is {role} beside a stranger with another {what}")
        if side.child.poll() is None:
            side.kill()
        said[what] = side.message()
    report = Report()
    report.join(world)
    emitters(world, before, 0)
    return {"said": said, **report.result(world)}


def poweroff(world, _count):
    """The guest switches itself off: both sides end with status 0, and nobody goes live."""
    before = stretches(world)
    clients = world.disconnect()
    world.guest.power_off(world.pair.side(world.pair.live), world.place)
    for host in world.pair.hosts:
        side = world.pair.side(host)
        if (status := side.exited(240)) != 0:
            raise Failure(f"{host.name} ended with {status} instead of 0\n{side.tail()}")
    emitters(world, before, 0)
    return {"rounds": {client.name: client.rounds for client in clients}}


def _needs_cables(world):
    if not world.cables:
        raise Failure("this needs cables that can be pulled: use the world tap")
