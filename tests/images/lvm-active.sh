#!/usr/bin/env bash
# Makes tests/images/lvm-active: the disks of a machine that has LVM volumes in use, captured while they are active.
#
#   tests/images/lvm-active.sh [WORK-DIRECTORY]
#
# Debian's own kernel runs under QEMU's emulation (no KVM, no device-mapper on this machine needed) with three empty disks; lvm2 makes
# a thin pool with a volume and snapshots of it, a raid1, one with a failed leg, a mirror, a raid0, a raid5, and a thick snapshot; everything is written while it is in
# use. The guest's kernel tells the SHA-256 of each volume as it reads it, and QEMU is then killed: nothing is deactivated or unmounted.
#
# Needs root and mmdebstrap. Takes about five minutes.
set -euo pipefail
images=$(cd "$(dirname "$0")" && pwd)
work=${1:-$(mktemp -d)}
root=$work/root
if [[ ! -x $root/usr/bin/qemu-system-x86_64 ]]; then
    mmdebstrap --variant=minbase \
        --include=qemu-system-x86,linux-image-cloud-amd64,lvm2,thin-provisioning-tools,busybox-static,kmod,e2fsprogs,cpio \
        bookworm "$root"
fi

# The guest's root: busybox, lvm2, mkfs and the modules.
guest=$work/guest
rm -rf "$guest"
mkdir -p "$guest"/{bin,sbin,usr/sbin,etc/lvm,proc,sys,dev,tmp,run/lock/lvm,mnt/thin,mnt/base,lib/modules}
cp "$root/bin/busybox" "$guest/bin/busybox"
kernel=$(basename "$(ls -d "$root"/lib/modules/*)")
cp -r "$root/lib/modules/$kernel" "$guest/lib/modules/"
programs=(/usr/sbin/lvm /usr/sbin/dmsetup /usr/sbin/mke2fs /usr/sbin/pdata_tools /usr/bin/kmod)
for program in "${programs[@]}"; do
    cp "$root$program" "$guest/usr/sbin/"
    chroot "$root" ldd "$program" | grep -o '/[^ ]*' | while read -r library; do
        mkdir -p "$guest$(dirname "$library")"
        cp -L "$root$library" "$guest$library"
    done
done
ln -sf lvm "$guest/usr/sbin/lvs"
ln -sf kmod "$guest/usr/sbin/modprobe"
for tool in thin_check thin_repair thin_dump; do ln -sf pdata_tools "$guest/usr/sbin/$tool"; done
cat >"$guest/etc/lvm/lvm.conf" <<'CONF'
devices { use_devicesfile = 0 obtain_device_list_from_udev = 0 external_device_info_source = "none" scan = [ "/dev" ] }
activation { udev_sync = 0 udev_rules = 0 monitoring = 0 }
backup { backup = 0 archive = 0 }
global { use_lvmpolld = 0 locking_type = 1 thin_check_executable = "" }
CONF
cat >"$guest/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/sbin:/usr/bin:/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
die() { echo "GUEST FAILED: $*"; sleep 1000; }
for module in virtio_pci virtio_blk dm-thin-pool dm-snapshot dm-raid raid0 raid1 raid456 dm-mirror ext4 crc32c_generic; do
    modprobe "$module" || echo "no module $module"
done
sleep 1
# Text that never comes twice, so that the images are small.
noise() { seq $((RANDOM * 30000 + RANDOM)) 2147483646 | head -c "$1"k; }
set -e
trap 'die init' EXIT
lvm pvcreate -q /dev/vda /dev/vdb /dev/vdc
lvm vgcreate -q -s 1M vg0 /dev/vda /dev/vdb /dev/vdc
lvm lvcreate -q -y --type thin-pool -n pool -L 30M --poolmetadatasize 2M --chunksize 64k vg0
lvm lvcreate -q -y -V 64M -n thin --thinpool pool vg0
lvm lvcreate -q -y -Wn -Zn --type raid1 -m 1 -n mirrored -L 3M vg0
lvm lvcreate -q -y -Wn -Zn --type mirror -m 1 --mirrorlog core -n oldmirror -L 2M vg0
lvm lvcreate -q -y -Wn -Zn --type raid5 -i 2 -n parity -L 2M vg0
lvm lvcreate -q -y -Wn -Zn --type raid1 -m 1 -n stale -L 2M vg0
lvm lvcreate -q -y -Wn -Zn --type raid0 -i 2 -n fast -L 2M vg0
lvm lvcreate -q -y -Wn -Zn -n base -L 8M vg0
lvm vgmknodes || true
ls /dev/mapper

/usr/sbin/mke2fs -q -t ext4 -E lazy_itable_init=0,lazy_journal_init=0 -J size=1 -L thin /dev/mapper/vg0-thin
mount -t ext4 /dev/mapper/vg0-thin /mnt/thin
mkdir /mnt/thin/etc; echo "before" >/mnt/thin/etc/name
noise 300 >/mnt/thin/kept; noise 200 >/mnt/thin/changed; noise 200 >/mnt/thin/removed
sync
lvm lvcreate -q -y -kn -s -n early vg0/thin
rm /mnt/thin/removed; noise 200 >/mnt/thin/changed; echo "after" >/mnt/thin/etc/name
for n in $(seq 12); do noise 5 >/mnt/thin/small$n; sync; done
noise 400 >/mnt/thin/later
sync
lvm lvcreate -q -y -kn -s -n late vg0/thin
noise 70 | dd of=/dev/mapper/vg0-early bs=64k seek=800 2>/dev/null

/usr/sbin/mke2fs -q -t ext4 -O ^has_journal -E lazy_itable_init=0 -L base /dev/mapper/vg0-base
mount -t ext4 /dev/mapper/vg0-base /mnt/base
mkdir /mnt/base/etc; echo "base" >/mnt/base/etc/name; noise 200 >/mnt/base/data
sync
lvm lvcreate -q -y -s -n snap -L 3M vg0/base
noise 300 >/mnt/base/data; echo "changed" >/mnt/base/etc/name; noise 100 >/mnt/base/more
sync
noise 20 | dd of=/dev/mapper/vg0-snap bs=4k seek=1500 2>/dev/null
noise 900 | dd of=/dev/mapper/vg0-mirrored bs=64k seek=3 2>/dev/null
noise 500 | dd of=/dev/mapper/vg0-oldmirror bs=64k seek=5 2>/dev/null
noise 500 | dd of=/dev/mapper/vg0-parity bs=64k 2>/dev/null
noise 1500 | dd of=/dev/mapper/vg0-fast bs=64k seek=2 2>/dev/null
# The first leg of a mirror fails; what is written afterwards is on the second only.
noise 300 | dd of=/dev/mapper/vg0-stale bs=64k 2>/dev/null
sync; sleep 2
echo "0 $(blockdev --getsz /dev/mapper/vg0-stale_rimage_0) error" >/tmp/error
dmsetup suspend --noudevsync --noflush vg0-stale_rimage_0
dmsetup reload vg0-stale_rimage_0 /tmp/error
dmsetup resume --noudevsync vg0-stale_rimage_0
noise 300 | dd of=/dev/mapper/vg0-stale bs=64k seek=2 2>/dev/null
sync; sleep 3; sync
dmsetup status
lvm lvs -a -o name,attr,size,devices,copy_percent,data_percent
for volume in thin early late mirrored oldmirror stale fast base snap; do
    echo "MANIFEST $(dd if=/dev/mapper/vg0-$volume iflag=direct bs=64k 2>/dev/null | sha256sum | cut -d' ' -f1) $volume"
done
for file in thin/kept thin/changed thin/later thin/etc/name base/data base/more; do
    echo "MANIFEST $(sha256sum /mnt/$file | cut -d' ' -f1) $file"
done
trap - EXIT
echo "GUEST DONE"
sleep 1000
INIT
chmod +x "$guest/init"
rm -rf "$root/tmp/guest" && mv "$guest" "$root/tmp/guest"
chroot "$root" sh -c 'cd /tmp/guest && find . | cpio -o -H newc --quiet | gzip -1 >/tmp/initrd'
cp "$root/boot/vmlinuz-$kernel" "$root/tmp/kernel"

arguments=()
for disk in vda vdb vdc; do
    rm -f "$root/tmp/$disk"
    truncate -s 64M "$root/tmp/$disk"
    arguments+=(-drive "file=/tmp/$disk,if=virtio,format=raw,cache=writethrough")
done
log=$work/serial
chroot "$root" qemu-system-x86_64 -accel tcg -m 768 -smp 2 -nodefaults -display none -no-reboot -serial stdio \
    -kernel /tmp/kernel -initrd /tmp/initrd -append "console=ttyS0 panic=-1 quiet" "${arguments[@]}" >"$log" 2>&1 </dev/null &
qemu=$!
for _ in $(seq 600); do
    sleep 1
    grep -q "GUEST DONE" "$log" && break
    if grep -q "GUEST FAILED\|Kernel panic" "$log" || ! kill -0 "$qemu" 2>/dev/null; then
        kill -9 "$qemu" || true
        tail -50 "$log" >&2
        exit 1
    fi
done
kill -9 "$qemu"
wait "$qemu" 2>/dev/null || true
out=$images/lvm-active
mkdir -p "$out"
tr -d '\r' <"$log" | sed -n 's/^MANIFEST //p' >"$out/manifest"
for disk in vda vdb vdc; do
    zstd -q -f -19 --long=26 "$root/tmp/$disk" -o "$out/$disk.zst"
done
ls -l "$out"
