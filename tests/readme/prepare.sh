# What the README takes for granted: the functions that make it, and `ready`, which waits.

ready() {
    for _ in $(seq 200); do
        if eval "$1" > /dev/null 2>&1; then return 0; fi
        sleep 0.05
    done
    echo "not in time: $1"
    return 1
}

# Ends what the section has started in the background, each of which must end well, and unmounts.
leave() {
    local job
    for job in $(jobs -p); do
        kill "$job" 2> /dev/null || :
        wait "$job" || { echo "what was started in the background ended with $?"; return 1; }
    done
    for job in /run/*.pid; do [ ! -e "$job" ] || { kill "$(cat "$job")" || :; rm -f "$job"; }; done
    if mountpoint -q /mnt/backups; then umount /mnt/backups; fi
    if grep -E ' - fuse[. ]' /proc/self/mountinfo; then echo "a mount is left"; return 1; fi
}

# A guest with one partition: a tree that can be entered, nginx, data.
guest() {
    local tree=$STAGE/guest
    mkdir -p "$tree"/{bin,etc/nginx/conf.d,srv/data,proc,tmp}
    cp /usr/bin/busybox "$tree/bin/sh"
    echo 'root:x:0:0:root:/root:/bin/sh' > "$tree/etc/passwd"
    echo '/dev/vda1 / ext4 defaults 0 1' > "$tree/etc/fstab"
    echo 'ID=debian' > "$tree/etc/os-release"
    echo 'worker_processes 1;' > "$tree/etc/nginx/nginx.conf"
    echo 'secret' > "$tree/srv/data/secret"
    chmod 600 "$tree/srv/data/secret"
    ln "$tree/srv/data/secret" "$tree/srv/data/same"
    setfattr -n user.colour -v blue "$tree/srv/data/secret"
    truncate -s 4M "$tree/srv/sparse"
    truncate -s 32M monday.raw
    printf 'label: gpt\nstart=1MiB,size=30MiB,type=linux\n' | sfdisk -q monday.raw
    mke2fs -q -F -t ext4 -d "$tree" -E offset=1048576 monday.raw 30M
    changed monday.raw tuesday.raw
    changed tuesday.raw snapshot.raw
    changed snapshot.raw wednesday.raw
}

# The same disk a day later.
changed() {
    cp --sparse=always "$1" "$2"
    echo "$2" > "$STAGE/today"
    debugfs -w -R "write $STAGE/today /etc/$2" "$2?offset=1048576" 2> /dev/null
    debugfs -R "cat /etc/$2" "$2?offset=1048576" 2> /dev/null | grep -qx "$2"
}

# Another VM: two disks, one of them behind an NBD server.
second() {
    truncate -s 8M a.raw
    head -c 300000 /dev/urandom | dd of=a.raw conv=notrunc status=none
    qemu-img convert -O qcow2 a.raw a.qcow2
    cp --sparse=always a.raw vda.img
    echo later | dd of=vda.img bs=65536 seek=3 conv=notrunc status=none
    head -c 1000000 /dev/urandom > b.raw
    truncate -s 1M b.raw
    qemu-nbd --fork --read-only -f raw --socket=/run/vdb.sock --pid-file=/run/vdb.pid b.raw
}

# A volume that is a snapshot, as a block device. Where /dev/vg0 is only this test's, it is there no longer than needed, and by turns: who
# removes it takes away the mounts on it in other namespaces.
snapshot() {
    exec 8< /dev
    flock 8
    mkdir -p /dev/vg0
    mount -t tmpfs none /dev/vg0
    cp snapshot.raw "$STAGE/over/snapshot.raw"
    SNAPSHOT=$(losetup -rf --show "$STAGE/over/snapshot.raw")
    ln -s "$SNAPSHOT" /dev/vg0/web01-snap
}
no_snapshot() {
    umount /dev/vg0
    rmdir /dev/vg0 2> /dev/null || :
    exec 8<&-
    losetup -d "$SNAPSHOT"
}

# A device of the first partition, where the kernel knows no partition tables.
partition() {
    [ -e "$1p1" ] || partx --add "$1"
    ready "[ -b $1p1 ]"
}

# What the package makes when it is installed; and an editor that does not ask.
installed() {
    getent passwd restorefs > /dev/null || useradd --system --no-create-home restorefs
    getent passwd agent > /dev/null || useradd --no-create-home agent
    install -d -m 750 -g restorefs /etc/restorefs
    install -m 640 -g restorefs "$STAGE/over/config.toml" /etc/restorefs/config.toml
    install -D -m 644 "$STAGE/over/restorefs.service" /etc/systemd/system/restorefs.service
    install -d -m 1775 -g restorefs /run/restorefs
    rm -f /usr/bin/editor
    printf '#!/bin/sh\nsed -i "s|^path = .*|path = \\"/srv/restorefs/repo\\"|" "$1"\n' > /usr/bin/editor
    chmod 755 /usr/bin/editor
    mkdir -p /backup
}

# The other servers on top: what their own programs say about the files.
servers() {
    testparm -s /etc/samba/smb.conf > "$STAGE/said" 2>&1
    cat "$STAGE/said"
    if grep -i -E 'unknown|ignoring|invalid|error' "$STAGE/said"; then return 1; fi
    grep -q 'path = /mnt/backups' "$STAGE/said"
    rsync --daemon --no-detach --address=127.0.0.1 --config=/etc/rsyncd.conf &
    ready 'rsync rsync://127.0.0.1/backups/web01/latest/files/etc/nginx/ | grep nginx.conf'
    kill $! && wait $! || :
    # Without what needs portmap, Kerberos or a wait for clients of a server before it.
    local quiet='Enable_UDP = false; Enable_NLM = false; Enable_RQUOTA = false;'
    sed "s/^NFS_CORE_PARAM {/& $quiet/" /etc/ganesha/ganesha.conf > /run/ganesha.conf
    echo 'NFS_KRB5 { Active_krb5 = false; } NFSv4 { RecoveryBackend = fs; RecoveryRoot = /run/ganesha; Graceless = true; }' >> /run/ganesha.conf
    mkdir /run/ganesha
    ganesha.nfsd -F -f /run/ganesha.conf -L /run/ganesha.log -p /run/ganesha.pid &
    ready 'nfs-ls "nfs://127.0.0.1/backups/web01/latest/files/etc/nginx?version=4" | grep nginx.conf' || { cat /run/ganesha.log; return 1; }
    kill $! && wait $! || :
}
