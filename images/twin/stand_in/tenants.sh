#!/bin/sh
# Runs once, while the image of one inventory's twin is built: its users, their folders, its units.
set -eu
here=/opt/twin
while read -r user; do
    id "$user" >/dev/null 2>&1 || useradd --create-home --shell /bin/bash "$user"
done <$here/users
login=$(cat $here/login)
if [ "$login" != root ]; then
    echo "$login ALL=(ALL) NOPASSWD: ALL" >/etc/sudoers.d/twin
    chmod 0440 /etc/sudoers.d/twin
fi
# A line: the owner, then the path.
while read -r owner path; do
    chown -R "$owner:" "$path"
done <$here/owners
while read -r unit; do
    systemctl enable "$unit"
done <$here/at_boot
