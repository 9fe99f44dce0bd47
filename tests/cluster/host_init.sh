#!/bin/bash
# PID 1 of a host: runs in the host's own network, mount, PID, UTS and IPC namespaces. hosts.py starts it, nobody else.
#
#   host_init.sh NAME ADDRESS STATE SHARED PATH...
#
# NAME     the host's name, and its folder in STATE
# STATE    the suite's folder: keys, names of all hosts, what every shell exports
# SHARED   yes: STATE/share is a folder that all hosts see. no: each host sees an empty one of its own
# PATH...  what has to stay visible if it is under /tmp: the checkout and the Python environment
set -euo pipefail
name=$1 address=$2 state=$3 shared=$4
shift 4
here=$state/$name
mount --make-rprivate /
hostname "$name"
mkdir -p "$here/home/.ssh" "$here/tmp"

# A machine of its own, as far as Ray can tell: sessions in /tmp, shared memory, sockets in /run, the home directory.
mount -t tmpfs tmpfs /run
for path in "$@"; do
  case $path in /tmp/*) mkdir -p "/run/kept$path" && mount --bind "$path" "/run/kept$path" ;; esac
done
mount --bind "$here/tmp" /tmp
for path in "$@"; do
  case $path in /tmp/*) mkdir -p "$path" && mount --move "/run/kept$path" "$path" ;; esac
done
chmod 1777 /tmp
mount -t tmpfs -o size=2g,mode=1777 tmpfs /dev/shm
[ "$shared" = yes ] || mount -t tmpfs tmpfs "$state/share"
sed -E "s#^root:.*#root:x:0:0:root:$here/home:/bin/bash#" /etc/passwd > "$here/passwd"
mount --bind "$here/passwd" /etc/passwd # sshd takes the home directory from here
mount --bind "$state/hosts" /etc/hosts

cp "$state/key.pub" "$here/home/.ssh/authorized_keys"
chmod 700 "$here/home" "$here/home/.ssh"
chmod 600 "$here/home/.ssh/authorized_keys"
# Ray runs `bash --login -c -i`, and ssh neither a login shell nor an interactive one: both files say the same.
printf 'set -a\n. %s/environment\nDISTSIM_STAGES=%s/stages/%s\nset +a\n' "$state" "$state" "$name" > "$here/home/.bashrc"
echo ". ~/.bashrc" > "$here/home/.bash_profile"
[ -f "$here/host_key" ] || ssh-keygen -q -t ed25519 -N '' -f "$here/host_key"
mkdir -p /run/sshd
cat > "$here/sshd_config" <<CONFIG
ListenAddress $address
HostKey $here/host_key
AuthorizedKeysFile $here/home/.ssh/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
StrictModes no
MaxStartups 100
MaxSessions 100
PidFile none
CONFIG
/usr/sbin/sshd -D -e -f "$here/sshd_config" &
wait $! # bash reaps every orphan meanwhile, such as the daemons of `ray start`
