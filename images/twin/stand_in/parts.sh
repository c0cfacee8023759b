#!/bin/sh
# Runs once, while the image of all twins from inventories is built. $1: "yes" where the twin has a card.
set -eu
here=/opt/twin
wanted=""
need() {
    command -v "$1" >/dev/null 2>&1 || test -x "/usr/sbin/$1" || test -x "$1" || wanted="$wanted $2"
}
need /lib/systemd/systemd "systemd systemd-sysv dbus"
need dockerd docker.io
need docker docker-cli
need sshd openssh-server
need sudo sudo
need python3 python3
need ss iproute2
need ps procps
need curl curl
# Headers of the very C library that is there, which may be of a later release than the rest.
libc=$(dpkg-query --show --showformat='${Version}' libc6 2>/dev/null || true)
[ "$1" != yes ] || need gcc "gcc libc6-dev${libc:+=$libc} libc-dev-bin${libc:+=$libc}"
if [ -n "$wanted" ]; then
    if ! command -v apt-get >/dev/null; then
        echo "prove_rollback_image: expected an image with systemd, dockerd, docker, sshd, sudo, python3, ss, ps and curl" \
            "(and gcc for a card), or with apt-get to install them; it lacks the packages$wanted" >&2
        exit 1
    fi
    apt-get -qq -o Acquire::Check-Valid-Until=false update
    # shellcheck disable=SC2086 # a list of packages
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends $wanted >/var/log/apt-install.log 2>&1 || {
        tail -n 40 /var/log/apt-install.log
        exit 1
    }
    rm -rf /var/lib/apt/lists/* /var/log/*.log
fi
[ "$1" != yes ] || sh $here/gpu/compile.sh $here/programs
sh $here/common.sh $here/programs
rm -rf $here/programs $here/gpu
ssh-keygen -A >/dev/null
systemctl enable docker.service
[ "$1" != yes ] || systemctl enable twin-gpu.service
# Reached by `docker exec`, not over a network.
systemctl disable ssh.service ssh.socket >/dev/null 2>&1 || true
