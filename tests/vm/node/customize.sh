#!/bin/sh
# Makes a bare Debian tree into a node of the lab. Runs on the host, before it is packed:
# customize.sh TREE AGENT
set -eu
tree=$1
echo node001 >"$tree/etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 node001\n' >"$tree/etc/hosts"
echo 'nameserver 10.0.2.3' >"$tree/etc/resolv.conf"
echo root:rr | chroot "$tree" chpasswd

printf '[Match]\nName=en* eth*\n[Network]\nDHCP=yes\n' >"$tree/etc/systemd/network/lan.network"
install -m 755 "$2" "$tree/usr/local/sbin/rr-lab-agent"
cat >"$tree/etc/systemd/system/rr-lab-agent.service" <<'EOF'
[Unit]
Description=Agent of the rr lab
After=systemd-user-sessions.service
[Service]
ExecStartPre=/bin/sh -c 'until test -c /dev/virtio-ports/rr.lab; do sleep 1; done'
ExecStart=/usr/local/sbin/rr-lab-agent
Environment=HOME=/root
Restart=always
[Install]
WantedBy=multi-user.target
EOF
chroot "$tree" systemctl --quiet enable systemd-networkd rr-lab-agent
# Only its rescue system has one that runs.
chroot "$tree" systemctl --quiet disable ssh

# What runs at its own time would make two boots differ, and emulation slow.
chroot "$tree" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
	e2scrub_all.timer e2scrub_reap.service fstrim.timer mdcheck_start.timer mdcheck_continue.timer \
	mdmonitor-oneshot.timer xfs_scrub_all.timer

mkdir -p "$tree/etc/default/grub.d" "$tree/backup"
cat >"$tree/etc/default/grub.d/lab.cfg" <<'EOF'
GRUB_TIMEOUT=1
GRUB_TERMINAL="console serial"
GRUB_CMDLINE_LINUX_DEFAULT=""
GRUB_CMDLINE_LINUX="console=tty0 console=ttyS0,115200 mitigations=off"
EOF
