#!/bin/sh
# Runs once, while the image of Panda's twin is built: users, rights, and which units start at boot.
set -eu

multiarch=$(python3 -c 'import sysconfig; print(sysconfig.get_config_var("MULTIARCH"))')
mv /opt/programs/libtwinclock.so /usr/local/lib/twin/libtwinclock.so
sh "$(dirname "$0")/common.sh" /opt/programs
rmdir /opt/programs
sed -i "s/@MULTIARCH@/$multiarch/g" /etc/cdi/nvidia.json

useradd --create-home --shell /bin/bash --groups docker,sudo panda
chmod 0440 /etc/sudoers.d/panda
chown -R panda:panda /home/panda
chmod 0700 /home/panda/.ssh
chmod 0600 /home/panda/.ssh/authorized_keys /etc/ssh/ssh_host_ed25519_key

systemctl enable ssh.service docker.service twin-gpu.service panda-llamacpp.service panda-nav.service \
    phone-daemon.service chatterbox-boot.service hub.service
