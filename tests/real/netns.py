"""A network namespace with a TAP device in it, so that a guest can be reached without touching
the host's network.

Needs root (or CAP_NET_ADMIN and CAP_SYS_ADMIN) and iproute2. The namespace goes when the with
statement ends.
"""

import os
import subprocess


class Namespace:
    """The host's end has 10.0.2.2/24, the guest is expected at 10.0.2.15."""

    guest = "10.0.2.15"
    tap = "tap0"

    def __init__(self):
        self.name = f"ftemu-{os.getpid()}"

    def __enter__(self):
        self._ip("netns", "add", self.name)
        try:
            self._ip("-n", self.name, "link", "set", "lo", "up")
            self._ip("-n", self.name, "tuntap", "add", self.tap, "mode", "tap")
            self._ip("-n", self.name, "addr", "add", "10.0.2.2/24", "dev", self.tap)
            self._ip("-n", self.name, "link", "set", self.tap, "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        subprocess.run(["ip", "netns", "del", self.name], check=False)

    @staticmethod
    def _ip(*arguments):
        subprocess.run(["ip", *arguments], check=True)

    def inside(self, argv):
        """The command line that runs argv in the namespace."""
        return ["ip", "netns", "exec", self.name, *argv]

    def run(self, argv, timeout, **options):
        """Runs argv in the namespace and returns the finished process with its output."""
        return subprocess.run(
            self.inside(argv),
            timeout=timeout,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            **options,
        )
