#!/bin/bash
# Configures the guest's root file system: mmdebstrap's customize hook for build.sh.
#
# Usage: customize.sh ROOT PUBLIC_KEY
#        ROOT is the unpacked system, PUBLIC_KEY the file of the ssh key that root shall accept
set -euo pipefail
root=$1 public_key=$2

echo debian >"$root/etc/hostname"
printf '127.0.0.1 localhost debian\n::1 localhost\n' >"$root/etc/hosts"
echo '/dev/sda1 / ext4 errors=remount-ro 0 1' >"$root/etc/fstab"
echo 'nameserver 10.0.2.3' >"$root/etc/resolv.conf"
# A fixed identity: without it systemd takes every boot of a snapshot for the first one.
echo 5f7e9a3c1b2d4e6f8091a2b3c4d5e6f7 >"$root/etc/machine-id"
echo 'root:ftemu' | chroot "$root" chpasswd
touch "$root/root/.hushlogin"
: >"$root/etc/motd"

# root on ttyS0 without a password.
mkdir -p "$root/etc/systemd/system/serial-getty@ttyS0.service.d"
cat >"$root/etc/systemd/system/serial-getty@ttyS0.service.d/autologin.conf" <<'UNIT'
[Service]
ExecStart=
ExecStart=-/sbin/agetty --autologin root --noclear --keep-baud 115200,57600,38400,9600 %I vt220
UNIT

# One line on ttyS0 when everything is up; before the getty, which hangs the line up when it begins and
# would throw away what is on its way then.
cat >"$root/etc/systemd/system/guest-ready.service" <<'UNIT'
[Unit]
Description=Tell the serial line that the system is up
After=ssh.service redis-server.service nginx.service
After=systemd-networkd.service systemd-user-sessions.service
Before=serial-getty@ttyS0.service

[Service]
Type=oneshot
ExecStart=/bin/sh -c 'read -r up rest </proc/uptime; printf "\r\nGUEST-READY %%s\r\n" "$up"'
StandardOutput=file:/dev/ttyS0

[Install]
WantedBy=multi-user.target
UNIT

# The address the tests expect, and whatever DHCP offers besides.
cat >"$root/etc/systemd/network/10-eth.network" <<'NETWORK'
[Match]
Name=eth*

[Network]
Address=10.0.2.15/24
DHCP=ipv4
LinkLocalAddressing=no
IPv6AcceptRA=no

[Route]
Gateway=10.0.2.2
Metric=2048

[DHCPv4]
ClientIdentifier=mac
NETWORK

mkdir -p "$root/root/.ssh" "$root/etc/ssh/sshd_config.d" "$root/etc/systemd/system.conf.d"
chmod 700 "$root/root/.ssh"
cp "$public_key" "$root/root/.ssh/authorized_keys"
chmod 600 "$root/root/.ssh/authorized_keys"
printf 'PermitRootLogin yes\nUseDNS no\n' >"$root/etc/ssh/sshd_config.d/guest.conf"

# An emulated machine may be slow: no start job is given up early.
printf '[Manager]\nDefaultTimeoutStartSec=900\nDefaultDeviceTimeoutSec=900\n' \
  >"$root/etc/systemd/system.conf.d/slow.conf"

chroot "$root" systemctl -q enable systemd-networkd.service guest-ready.service \
  serial-getty@ttyS0.service \
  ssh.service redis-server.service nginx.service 2>/dev/null
# Periodic housekeeping would only disturb measurements.
chroot "$root" systemctl -q mask apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer \
  e2scrub_reap.service \
  fstrim.timer dpkg-db-backup.timer systemd-networkd-wait-online.service 2>/dev/null

# systemd-networkd asks for nl80211, and checking the wireless certificates takes seconds on an
# emulated processor.
echo 'blacklist cfg80211' >"$root/etc/modprobe.d/no-wireless.conf"

kernel_options='root=/dev/sda1 ro console=tty0 console=ttyS0,115200 net.ifnames=0'
kernel=$(basename "$(ls "$root"/boot/vmlinuz-*)")
version=${kernel#vmlinuz-}
[ -s "$root/boot/initrd.img-$version" ] || chroot "$root" update-initramfs -c -k "$version"
mkdir -p "$root/boot/grub"
cat >"$root/boot/grub/grub.cfg" <<GRUB
serial --unit=0 --speed=115200
terminal_input serial console
terminal_output serial console
set timeout=1
set default=0
menuentry "Debian GNU/Linux" {
  linux /boot/vmlinuz-$version $kernel_options quiet
  initrd /boot/initrd.img-$version
}
menuentry "Debian GNU/Linux (all messages)" {
  linux /boot/vmlinuz-$version $kernel_options systemd.show_status=1
  initrd /boot/initrd.img-$version
}
menuentry "Debian GNU/Linux (rescue shell)" {
  linux /boot/vmlinuz-$version root=/dev/sda1 rw console=ttyS0,115200 init=/bin/bash
  initrd /boot/initrd.img-$version
}
GRUB

chroot "$root" dpkg-query -W >"$root/packages.list"
rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/var/log/*.log "$root"/var/log/apt
