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
    install -d -m 755 /run/restorefs
    install -d -m 755 -o restorefs -g restorefs /run/restorefs/daemon
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

# A running machine: a process of QEMU that has the image open, and its monitor. What it writes is written while it runs.
machine() {
    mount -t tmpfs none /var/lib
    mkdir -p /var/lib/libvirt/images
    qemu-img convert -O qcow2 wednesday.raw /var/lib/libvirt/images/web01.qcow2
    cp wednesday.raw running.raw
    qemu-storage-daemon --blockdev driver=qcow2,node-name=disk0,file.driver=file,file.filename=/var/lib/libvirt/images/web01.qcow2 \
        --chardev socket,id=m,path=/run/web01.qmp,server=on,wait=off --monitor chardev=m \
        --nbd-server addr.type=unix,addr.path=/run/web01.sock --export nbd,id=guest,node-name=disk0,name=guest,writable=on \
        --pidfile /run/machine.pid &
    ready '[ -S /run/web01.qmp ] && [ -S /run/web01.sock ]'
}
# A machine that is paused: its disk has what wednesday.raw has.
qemu() {
    pkill -F /run/machine.pid || true
    qemu-img convert -O qcow2 wednesday.raw /srv/web01.qcow2
    cp wednesday.raw running.raw
    qemu-system-x86_64 -M q35 -m 64 -display none -nodefaults -S -qmp unix:/run/web01.qmp,server=on,wait=off -pidfile /run/machine.pid \
        -blockdev driver=qcow2,node-name=root,discard=unmap,file.driver=file,file.filename=/srv/web01.qcow2 \
        -device virtio-blk-pci,drive=root,id=vda,serial=WEB01-ROOT &
    ready '[ -S /run/web01.qmp ]'
}
# Commands of QMP, a line each; an error ends it.
qmp() {
    python3 -c '
import json, socket, sys
s = socket.socket(socket.AF_UNIX); s.connect("/run/web01.qmp"); f = s.makefile("rw")
f.readline()
def ask(command):
    f.write(json.dumps(command) + "\n"); f.flush()
    while True:
        answer = json.loads(f.readline())
        if "error" in answer: sys.exit(str(answer))
        if "return" in answer: return answer["return"]
ask({"execute": "qmp_capabilities"})
for line in sys.stdin:
    if line.startswith("wait "):
        import time
        _, job, status = line.split()
        for _ in range(600):
            if status in [j["status"] for j in ask({"execute": "query-jobs"}) if j["id"] == job] or (status == "gone" and not [j for j in ask({"execute": "query-jobs"}) if j["id"] == job]): break
            time.sleep(0.05)
        else: sys.exit("not in time: " + line)
    elif line.strip(): ask(json.loads(line))
'
}
# What a guest does: it overwrites the beginning of its disk.
overwrite() { head -c 4M /dev/urandom > noise; guest_writes noise; }
guest_writes() { qemu-io -f raw -c "write -s $1 0 4M" 'nbd+unix:///guest?socket=/run/web01.sock' > /dev/null; }
overlay() {
    qemu-img create -q -f qcow2 -F qcow2 -b /var/lib/libvirt/images/web01.qcow2 /var/lib/libvirt/images/web01.nightly
    qmp << 'END'
{"execute": "blockdev-add", "arguments": {"driver": "qcow2", "node-name": "overlay", "backing": null, "file": {"driver": "file", "filename": "/var/lib/libvirt/images/web01.nightly"}}}
{"execute": "blockdev-snapshot", "arguments": {"node": "disk0", "overlay": "overlay"}}
END
}
blockcommit() {
    qmp << 'END'
{"execute": "block-commit", "arguments": {"job-id": "commit", "device": "overlay", "auto-dismiss": true}}
wait commit ready
{"execute": "job-complete", "arguments": {"id": "commit"}}
wait commit gone
END
}
xml() { python3 -c 'import sys, xml.dom.minidom; xml.dom.minidom.parse(sys.argv[1])' "$1"; }
# The plugin of a monitor: well, late, damaged, and without a repository.
plugin() {
    says 0 '^OK: '
    sleep 1.1
    says 1 '^LATE: ' 0s
    mv /srv/repo/vms/web01/vm.json vm.json.away
    says 2 '^DAMAGED: web01'
    mv vm.json.away /srv/repo/vms/web01/vm.json
    says 3 'no repository' 26h /srv/nowhere
}
says() {
    local code=0 wanted=$1 pattern=$2 said
    shift 2
    said=$(sh /etc/restorefs/check_restorefs "$@") || code=$?
    if [ $code != "$wanted" ] || ! head -n1 <<< "$said" | grep -e "$pattern"; then echo "$code: $said"; return 1; fi
}
# Units as systemd reads them.
units() {
    local said unit
    for unit in "$@"; do
        said=$(systemd-analyze verify --man=no --recursive-errors=no "/etc/systemd/system/$unit" 2>&1) || { echo "$said"; return 1; }
        if grep -E 'restorefs-.*(Unknown|ignoring|rror)' <<< "$said"; then return 1; fi
    done
}
# The configuration of Prometheus with the alerts, as promtool reads them.
scrape() {
    cp "$SOURCE/docs/alerts.yml" /etc/prometheus/restorefs-alerts.yml
    touch /etc/prometheus/restorefs.token
    openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=ca -keyout /dev/null -out /etc/prometheus/restorefs-ca.pem 2> /dev/null
    promtool check config /etc/prometheus/prometheus.yml
}
# For the API: a repository of its own with three points, and one to copy to.
programs() {
    cd "$STAGE/place"
    export RESTOREFS_REPO=/srv/programs
    restorefs init
    restorefs backup web01 vda=monday.raw --point monday
    restorefs backup web01 vda=tuesday.raw --point tuesday
    restorefs backup web01 vda=snapshot.raw --attach domain.xml --point third
    restorefs init /srv/nas
    restorefs repo add nas /srv/nas --media nas --offsite
}
# Its daemon, in each section after the first.
served() {
    restorefs serve --nbd /run/restorefs/nbd.sock --http 127.0.0.1:8420 --http-socket /run/restorefs/http.sock &
    answers
}
answers() { ready 'curl -sSf http://127.0.0.1:8420/api/v1/openapi.json'; }
