"""A guest's serial console: an emulator as a child process whose standard input and output are
the guest's COM1.

Machine(argv) starts it; expect() waits for a pattern in what the guest prints; shell() turns the
login shell into one that can be scripted, and run() gives it a command and returns its status and
output. Everything has a deadline, and every failure shows the end of what the guest printed.
Close (or the with statement) ends the child and its descendants.
"""

import os
import re
import select
import signal
import subprocess
import time


class Failure(Exception):
    """A check that did not hold, with what was seen instead."""


class Machine:
    def __init__(self, argv, transcript=None, env=None, limit=None):
        """Starts argv. transcript: a path that receives all the guest prints; limit: a factor for
        all timeouts."""
        self.argv = argv
        self.factor = limit or float(os.environ.get("REAL_TIMEOUT_FACTOR", "1"))
        self.log = open(transcript, "wb") if transcript else None
        self.seen = b""
        self.at = 0
        self.started = time.monotonic()
        self.child = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=env,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Ends the emulator, whatever its state."""
        if self.child.poll() is None:
            try:
                os.killpg(self.child.pid, signal.SIGTERM)
                self.child.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(self.child.pid, signal.SIGKILL)
                self.child.wait()
        self.child.stdout.close()
        self.child.stdin.close()
        if self.log:
            self.log.close()
            self.log = None

    def tail(self):
        """The last lines of the console, for messages."""
        return self.seen[-1500:].decode("utf-8", "replace").replace("\r", "")

    def _read(self, deadline):
        """Takes in more output; False at the deadline or at the end of the output."""
        ready, _, _ = select.select(
            [self.child.stdout], [], [], max(0, min(1, deadline - time.monotonic()))
        )
        if not ready:
            return time.monotonic() < deadline
        data = os.read(self.child.stdout.fileno(), 65536)
        if self.log:
            self.log.write(data)
            self.log.flush()
        self.seen += data
        return bool(data)

    def expect(self, pattern, timeout):
        """Waits until pattern (a regular expression) appears after the last match; returns the
        match."""
        deadline = time.monotonic() + timeout * self.factor
        expression = re.compile(pattern if isinstance(pattern, bytes) else pattern.encode(), re.S)
        while True:
            match = expression.search(self.seen, self.at)
            if match:
                self.at = match.end()
                return match
            if not self._read(deadline):
                ended = self.child.poll()
                why = (
                    f"within {timeout * self.factor:.0f} s"
                    if ended is None
                    else f"before it ended with {ended}"
                )
                raise Failure(
                    f"the guest did not print {pattern!r} {why}; it printed:\n{self.tail()}"
                )

    def send(self, text):
        """Types text."""
        data = text.encode()
        try:
            while data:
                data = data[os.write(self.child.stdin.fileno(), data) :]
        except BrokenPipeError:
            raise Failure(f"the emulator has ended; the guest printed:\n{self.tail()}") from None

    def shell(self, timeout=60):
        """Makes the shell at the prompt scriptable: no echo, escape sequences or wrapping."""
        self.send(
            "stty -echo cols 400; export TERM=dumb PS1= PS2=; "
            "bind 'set enable-bracketed-paste off' 2>/dev/null; "
            "echo shell''-ready\n"
        )
        self.expect(r"shell-ready\r?\n", timeout)

    def run(self, command, timeout=60):
        """Runs command in the guest's shell; returns (exit status, output)."""
        begin = self.at
        self.send(f'{command}\necho "@@$?@@"\n')
        match = self.expect(r"@@(\d+)@@\r?\n", timeout)
        output = self.seen[begin : match.start()].decode("utf-8", "replace").replace("\r", "")
        return int(match[1]), output

    def must(self, command, timeout=60):
        """Runs command, which must succeed; returns its output."""
        status, output = self.run(command, timeout)
        if status != 0:
            raise Failure(
                f"{command.splitlines()[0]!r} in the guest: exit status {status}\n{output[-1500:]}"
            )
        return output

    def exited(self, timeout):
        """Waits for the emulator to end by itself; returns its exit status."""
        deadline = time.monotonic() + timeout * self.factor
        while self._read(deadline):
            pass
        try:
            return self.child.wait(max(1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise Failure(f"the emulator did not end; the guest printed:\n{self.tail()}") from None

    def powered_off(self, timeout=120):
        """Waits for the end and demands exit status 0."""
        status = self.exited(timeout)
        if status != 0:
            raise Failure(f"exit status {status} instead of 0; the guest printed:\n{self.tail()}")

    def peak_kib(self):
        """The most memory that the emulator process has had resident so far, in KiB."""
        with open(f"/proc/{self.child.pid}/status", encoding="ascii") as status:
            return int(re.search(r"VmHWM:\s+(\d+) kB", status.read())[1])

    def cpu_seconds(self):
        """The processor time that the emulator process has used so far."""
        with open(f"/proc/{self.child.pid}/stat", encoding="ascii") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
