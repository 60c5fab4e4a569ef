"""The emulators that the checks drive: command lines for ftemu and, as the reference, for QEMU.

An emulator is anything with `disk` and `kernel`, each of which returns an argument list whose
standard input and output are the guest's COM1. The network is None, or the name of a TAP device.
"""


class Ftemu:
    """ftemu at a path, with extra options for every run."""

    name = "ftemu"
    replays = True  # keeps a log that can be replayed
    lean = True  # promises to use little more memory than its guest has

    def __init__(self, path, extra=()):
        self.path = path
        self.extra = list(extra)

    def _common(self, memory, tap, options):
        net = f"tap:{tap}" if tap else "none"
        if "--net" in options:
            return ["-m", memory, "--serial", "stdio", *options, *self.extra]
        return ["-m", memory, "--serial", "stdio", "--net", net, *options, *self.extra]

    def disk(self, image, memory="1G", tap=None, options=()):
        """Boots a disk image, throwing its writes away."""
        return [self.path, "boot", image, "--snapshot", *self._common(memory, tap, options)]

    def kernel(self, kernel, initrd, append, memory="512M", options=()):
        """Boots a kernel and an initrd directly."""
        return [
            self.path,
            "boot",
            "--kernel",
            kernel,
            "--initrd",
            initrd,
            "--append",
            append,
            *self._common(memory, None, options),
        ]

    def replay(self, log, options=()):
        """Replays a recorded log."""
        return [self.path, "replay", log, *options]


class Qemu:
    """Debian's qemu-system-x86_64 with TCG: shows whether a check and its guest are right."""

    name = "qemu"
    replays = False
    lean = False

    def __init__(self, extra=()):
        self.base = [
            "qemu-system-x86_64",
            "-accel",
            "tcg",
            "-machine",
            "pc",
            "-cpu",
            "max",
            "-nographic",
            "-no-reboot",
            *extra,
        ]

    def disk(self, image, memory="1G", tap=None, options=()):
        """Boots a disk image, throwing its writes away."""
        net = ["-nic", "none"]
        if tap:
            net = [
                "-netdev",
                f"tap,id=n,ifname={tap},script=no,downscript=no",
                "-device",
                "e1000,netdev=n,romfile=",
            ]
        return [
            *self.base,
            "-m",
            memory,
            "-drive",
            f"file={image},format=raw,if=ide,snapshot=on",
            *net,
            *options,
        ]

    def kernel(self, kernel, initrd, append, memory="512M", options=()):
        """Boots a kernel and an initrd directly."""
        return [
            *self.base,
            "-m",
            memory,
            "-nic",
            "none",
            "-kernel",
            kernel,
            "-initrd",
            initrd,
            "-append",
            append,
            *options,
        ]
