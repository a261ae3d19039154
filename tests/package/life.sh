# Run by deb.rs in a throwaway root: the package from its installation to its purge, with a repository that must not notice.
set -eu
export DEBIAN_FRONTEND=noninteractive LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin

fail() {
    echo "FAILED: $*"
    exit 1
}
same() { [ "$1" = "$2" ] || fail "$3: \"$1\", not \"$2\""; }
# Names, owners, modes and content of the repository.
repository() { (cd /var/lib/restorefs && find . -printf '%p %u %m\n' | sort && find . -type f -exec sha256sum {} + | sort) | sha256sum; }

# Other packages' triggers (man-db), and safety on a disk that is thrown away, are not what is looked at.
dpkg() { command dpkg --no-triggers --force-unsafe-io "$@"; }

dpkg -P restorefs >/dev/null 2>&1 || true
rm -rf /etc/restorefs /var/lib/restorefs

dpkg -i /packages/0.1.0-1.deb
id restorefs
same "$(stat -c %U:%G:%a /etc/restorefs/config.toml)" root:restorefs:640 "the configuration"
same "$(stat -c %U:%G:%a /var/lib/restorefs)" restorefs:restorefs:750 "the state directory"
same "$(stat -c %U:%G:%a /run/restorefs)" root:root:755 "root's directory of sockets"
same "$(stat -c %U:%G:%a /run/restorefs/daemon)" restorefs:restorefs:755 "the daemon's directory of sockets"
same "$(stat -c %U:%a /run/restorefs/map)" root:700 "the directory of maps"
# A member of the group takes no name that the daemon, or root, needs for a socket.
useradd --no-create-home -G restorefs mallory
for place in /run/restorefs /run/restorefs/daemon /run/restorefs/map; do
    ! runuser -u mallory -- perl -MSocket -e 'socket(S, AF_UNIX, SOCK_STREAM, 0); exit !bind(S, pack_sockaddr_un($ARGV[0]))' $place/nbd.sock ||
        fail "a member of the group has made a socket in $place"
done
[ ! -e /etc/systemd/system/multi-user.target.wants/restorefs.service ] || fail "enabled without a repository"

# As the daemon's user, in the place that the configuration names.
cd /tmp
head -c 3000000 /dev/urandom > disk.raw
chmod 644 disk.raw
as() { runuser -u restorefs -- restorefs --repo /var/lib/restorefs/repo "$@"; }
as init
as backup web01 vda=/tmp/disk.raw --point one
# What the daemon's user, or a member of its group, may put where the scripts of the package work as root.
runuser -u restorefs -- sh -c 'ln -s /etc /var/lib/restorefs/etc; ln -s /etc/shadow /var/lib/restorefs/shadow; ln -s /etc /run/restorefs/daemon/etc'
victims() { stat -c "%n %U:%G %a %s %i" /etc/shadow /etc/passwd /etc/fstab; stat -c "%n %U:%G %a %i" /etc; }
untouched=$(victims)
before=$(repository)

echo "# by the administrator" >> /etc/restorefs/config.toml
dpkg --force-confdef --force-confold -i /packages/0.1.0-2.deb
same "$(dpkg-query -W -f '${Version}' restorefs)" 0.1.0-2 "the version"
tail -n 1 /etc/restorefs/config.toml | grep -q administrator || fail "the upgrade took the configuration away"
same "$(stat -c %U:%G:%a /etc/restorefs/config.toml)" root:restorefs:640 "the configuration after the upgrade"
same "$(repository)" "$before" "the repository after the upgrade"

dpkg -r restorefs
[ ! -e /usr/bin/restorefs ] || fail "still there"
[ -e /etc/restorefs/config.toml ] || fail "a removal keeps the configuration"
same "$(repository)" "$before" "the repository after the removal"

# Back again, then away for good.
dpkg --force-confold -i /packages/0.1.0-1.deb
as restore web01@one vda /var/lib/restorefs/out.raw
cmp disk.raw /var/lib/restorefs/out.raw
rm /var/lib/restorefs/out.raw
# The history has the restore, and nothing else has changed.
find /var/lib/restorefs/repo/jobs/late -type f | grep -q . || fail "the restore is not in the history"
rm -r /var/lib/restorefs/repo/jobs/late
same "$(repository)" "$before" "the repository after the restore"
dpkg -P restorefs | tee purged
grep -q "not empty and is left" purged || fail "the purge does not say what it leaves"
[ ! -e /etc/restorefs ] || fail "a purge takes the configuration"
same "$(repository)" "$before" "the repository after the purge"
same "$(victims)" "$untouched" "what the daemon's user has linked to"

# With nothing in it, nothing is left.
rm -rf /var/lib/restorefs
dpkg -i /packages/0.1.0-1.deb
dpkg -P restorefs
[ ! -e /var/lib/restorefs ] || fail "an empty directory is left"
echo "done: all"
