#!/bin/sh
# Files that a backup gets wrong easily. nasty.sh DIRECTORY
set -eu
mkdir -p "$1"
cd "$1"
umask 022
echo one >hard-a && ln hard-a hard-b && mkdir deeper && ln hard-a deeper/hard-c
mkfifo -m 620 fifo && ln fifo deeper/fifo-link
mknod -m 640 null c 1 3 && mknod disk b 250 7
ln -s "no such target" dangling && ln -s hard-a symlink && chown -h 1234:5678 symlink
: >"$(printf 'new\nline')" && : >"$(printf 'not-utf8-\377\376')" && : >' leading and trailing '
: >"$(printf '%0255d' 0)" && : >'-rf' && : >"$(printf 'tab\tquote"back\\slash')" && mkdir '*'
truncate -s 40M sparse && printf head | dd of=sparse conv=notrunc status=none
printf middle | dd of=sparse bs=1M seek=17 conv=notrunc status=none
truncate -s 3M only-hole
echo x >suid && chown 1:2 suid && chmod 6755 suid && mkdir -m 3777 sticky-setgid && : >no-mode && chmod 0 no-mode
chown 4294967294:4294967294 no-mode
echo x >xattr && setfattr -n user.key -v 'a value' xattr && setfattr -n user.bin -v 0x00ff0a3d0a xattr
setfattr -n trusted.secret -v t xattr && setfattr -n user.dir -v d deeper
echo x >acl && setfacl -m u:1001:rwx,g:1002:r acl && mkdir acl-dir && setfacl -d -m u:1001:rx acl-dir
cp /bin/true capable && setcap cap_net_raw,cap_net_admin+ep capable
echo old >old && touch -h -d '1969-07-20 20:17:40.123456789 UTC' old
echo far >future && touch -d '2100-01-01 00:00:00.000000001 UTC' future
echo x >read-only && chmod 444 read-only
mkdir -p "$(printf 'd%.0s' $(seq 200))/$(printf 'e%.0s' $(seq 200))/$(printf 'f%.0s' $(seq 200))"
echo x >immutable && echo x >append && chattr +i immutable && chattr +a append && chattr +d read-only
touch -d '2020-02-02 02:02:02.222222222 UTC' deeper
