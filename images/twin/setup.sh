#!/bin/sh
# Runs once, while the twin's image is built: users, rights, and which units start at boot.
set -eu

multiarch=$(python3 -c 'import sysconfig; print(sysconfig.get_config_var("MULTIARCH"))')
mv /opt/programs/libnvidia-ml.so.1 "/usr/lib/$multiarch/libnvidia-ml.so.1"
mv /opt/programs/nvidia-smi /usr/bin/nvidia-smi
mv /opt/programs/libtwinclock.so /usr/local/lib/twin/libtwinclock.so
rmdir /opt/programs
sed -i "s/@MULTIARCH@/$multiarch/g" /etc/cdi/nvidia.json
ldconfig

useradd --create-home --shell /bin/bash --groups docker,sudo panda
chmod 0440 /etc/sudoers.d/panda
chown -R panda:panda /home/panda
chmod 0700 /home/panda/.ssh
chmod 0600 /home/panda/.ssh/authorized_keys /etc/ssh/ssh_host_ed25519_key

# A container has no hardware to wait for and no consoles; modules belong to the machine around it.
systemctl mask systemd-modules-load.service systemd-udevd.service systemd-udev-trigger.service \
    systemd-udevd-control.socket systemd-udevd-kernel.socket \
    getty.target console-getty.service systemd-remount-fs.service dev-hugepages.mount sys-fs-fuse-connections.mount \
    apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer dpkg-db-backup.timer
systemctl enable ssh.service docker.service twin-gpu.service panda-llamacpp.service panda-nav.service \
    phone-daemon.service chatterbox-boot.service hub.service
# systemd looks at this file to decide whether it is the first boot; it fills it in by itself.
: >/etc/machine-id
