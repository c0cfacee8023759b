#!/bin/sh
# What holds for every twin, while its image is built: the card's library in its place, no hardware to wait for.
set -eu

# From the folder $1, if there is one: a twin without a card has none.
if [ -e "$1/libnvidia-ml.so.1" ]; then
    multiarch=$(python3 -c 'import sysconfig; print(sysconfig.get_config_var("MULTIARCH"))')
    mv "$1/libnvidia-ml.so.1" "/usr/lib/$multiarch/libnvidia-ml.so.1"
    mv "$1/nvidia-smi" /usr/bin/nvidia-smi
    ldconfig
fi
# A container has no hardware to wait for and no consoles; modules belong to the machine around it.
systemctl mask systemd-modules-load.service systemd-udevd.service systemd-udev-trigger.service \
    systemd-udevd-control.socket systemd-udevd-kernel.socket \
    getty.target console-getty.service systemd-remount-fs.service dev-hugepages.mount sys-fs-fuse-connections.mount \
    apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer dpkg-db-backup.timer
# systemd looks at this file to decide whether it is the first boot; it fills it in by itself.
: >/etc/machine-id
