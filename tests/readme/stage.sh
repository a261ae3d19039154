# The first process of the stage: makes it, runs the shell that is told what to do, and cleans up after it.
set -e
# Mounts of other tests: a copy of them would keep them alive here.
awk '/ - fuse(\.[^ ]*)? | - [a-z0-9]+ \/dev\/loop/ {print $5}' /proc/self/mountinfo | while read -r other; do umount -l "$other" || :; done
before=$(awk '{print $3}' /proc/self/mountinfo)
mount -t tmpfs -o mode=755 none "$STAGE/place"
mkdir -p "$STAGE/over"
mount -t tmpfs -o mode=755 none "$STAGE/over"
mkdir -p "$STAGE"/over/{etc,bin,sbin}/{upper,work}
chmod 755 "$STAGE"
cp "$PROGRAM" "$STAGE/over/bin/upper/restorefs"
cp "$SOURCE"/mount-helpers/mount.restorefs "$STAGE/over/sbin/upper/"
cp "$SOURCE/systemd/config.toml" "$SOURCE/systemd/restorefs.service" "$STAGE/over/"
chmod 755 "$STAGE/over/bin/upper" "$STAGE/over/sbin/upper" "$STAGE/over/etc/upper"
over() { mount -t overlay none -o "lowerdir=$1,upperdir=$STAGE/over/$2/upper,workdir=$STAGE/over/$2/work" "$1"; }
over /etc etc
over /usr/bin bin
over /usr/sbin sbin
cd "$STAGE/place"
for empty in /srv /mnt /run /var/tmp; do mount -t tmpfs -o mode=755 none "$empty"; done
ip link set lo up
ip addr add 192.0.2.7/32 dev lo

# What shows a file of the stage: FUSE and tmpfs have a device number each, and these are new.
ours() {
    losetup -lnO NAME,BACK-MAJ:MIN | while read -r name device; do
        if awk '{print $3}' /proc/self/mountinfo | grep -qx "$device" && ! grep -qx "$device" <<< "$before"; then echo "$name"; fi
    done
}
set +e
bash --noprofile --norc -e -o pipefail
echo "ended $?"
restorefs unmap --all > /dev/null 2>&1
for device in $(ours); do
    umount "$device"* 2> /dev/null
    losetup -d "$device"
done
if mountpoint -q /dev/vg0; then umount /dev/vg0 && rmdir /dev/vg0; fi
sleep 0.1
echo left: $(ours) | sed 's/ *$//'
