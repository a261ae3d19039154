//! What single lines of the pages need, say, and leave behind.

use super::program::STEPS as PROGRAM;

/// What belongs to one line.
pub(crate) struct Step {
    /// How it begins ([`fits`](super::table::fits)).
    pub(crate) line: &'static str,
    /// Run before it.
    pub(crate) before: &'static str,
    /// What it prints.
    pub(crate) says: &'static [&'static str],
    /// Run after it: has to succeed.
    pub(crate) after: &'static str,
}

pub(crate) const fn step(
    line: &'static str,
    before: &'static str,
    says: &'static [&'static str],
    after: &'static str,
) -> Step {
    Step {
        line,
        before,
        says,
        after,
    }
}

/// What belongs to single lines.
const STEPS: &[Step] = &[
    step(
        "restorefs backup web01 vda=tuesday.raw",
        "",
        &[],
        "[ \"$(ls /srv/repo/vms/web01/points | wc -l)\" = 2 ]",
    ),
    step(
        "restorefs backup db01",
        "",
        &[],
        "restorefs ls db01 | grep 2026-11-20_02-00-00",
    ),
    step(
        "restorefs backup web01 vda=/dev/vg0/web01-snap",
        "snapshot",
        &[],
        "no_snapshot",
    ),
    step("restorefs ls$", "", &["web01", "db01"], ""),
    step(
        "restorefs ls web01@latest:/files/etc",
        "",
        &["passwd", "snapshot.raw", "nginx"],
        "",
    ),
    step("restorefs info web01@latest --json", "", &["\"disks\""], ""),
    step("restorefs volumes web01@latest", "", &["ext4"], ""),
    step(
        "restorefs mount /mnt/backups",
        "",
        &[],
        "cmp /mnt/backups/web01/latest/disks/vda.raw snapshot.raw",
    ),
    step(
        "cp -a /mnt/backups/web01",
        "",
        &[],
        "grep worker nginx/nginx.conf",
    ),
    step(
        "rsync -aHAX",
        "mkdir /srv/rescued",
        &[],
        "diff -r \"$STAGE/guest/srv\" /srv/rescued/srv; [ \"$(stat -c %h:%a /srv/rescued/srv/data/secret)\" = 2:600 ]; [ \"$(stat -c %b /srv/rescued/srv/sparse)\" -lt 100 ]; getfattr -n user.colour /srv/rescued/srv/data/same",
    ),
    step(
        "L=$(losetup",
        "",
        &[],
        "dd if=\"$L\" bs=1 skip=1080 count=2 status=none | od -An -tx1 | grep '53 ef'",
    ),
    step(
        "restorefs umount",
        "",
        &[],
        "if mountpoint -q /mnt/backups; then false; fi",
    ),
    step(
        "restorefs restore web01@latest vda out.raw",
        "",
        &[],
        "cmp out.raw snapshot.raw",
    ),
    step(
        "restorefs restore web01@latest~2",
        "",
        &[],
        "cmp disks/vda.raw monday.raw",
    ),
    step(
        "restorefs restore web01@latest:/files/etc/nginx",
        "",
        &[],
        "grep -r worker etc",
    ),
    step(
        "restorefs restore web01@latest:/files/etc --to etc.tar.zst",
        "",
        &[],
        "tar -tf etc.tar.zst | grep nginx.conf",
    ),
    step(
        "restorefs restore web01@latest:/files/srv",
        "",
        &[],
        "find /srv/there | grep data/secret; getfattr -R -d /srv/there | grep blue",
    ),
    step(
        "D=$(",
        "",
        &[],
        "blockdev --getro \"$D\" | grep 1; cmp \"$D\" snapshot.raw; partition \"$D\"",
    ),
    step(
        "restorefs map db01@latest",
        "",
        &["vda /dev/loop", "vdb /dev/loop"],
        "",
    ),
    step(
        "mkdir -p /mnt/part",
        "",
        &[],
        "cat /mnt/part/etc/snapshot.raw",
    ),
    step(
        "restorefs map web01@latest/vda --scratch",
        "",
        &["/dev/loop"],
        "",
    ),
    step("restorefs map$", "", &["web01@", "db01@", "vdb"], ""),
    step(
        "restorefs unmap --all",
        "",
        &[],
        "[ -z \"$(restorefs map --json | jq -r '.[]')\" ]",
    ),
    step(
        "restorefs mount --nbd",
        "",
        &[],
        "cmp /mnt/backups/web01/latest/disks/vda.raw snapshot.raw",
    ),
    step(
        "nbdinfo --list 'nbd+unix:///?socket=/run/backups.sock'",
        "",
        &["web01/latest/vda", "db01/2026-11-20_02-00-00/vdb"],
        "",
    ),
    step(
        "touch vda.file",
        "",
        &[],
        "ready 'cmp vda.file snapshot.raw'",
    ),
    step(
        "qemu-nbd --fork",
        "",
        &[],
        "nbdcopy 'nbd+unix:///?socket=/run/vda.sock' by-qemu.raw; cmp by-qemu.raw snapshot.raw",
    ),
    step(
        "qemu-img create -f qcow2 -F raw -b \"$U\"",
        "",
        &[],
        "qemu-img convert -O raw scratch.qcow2 by-scratch.raw; cmp by-scratch.raw snapshot.raw; rm scratch.qcow2",
    ),
    step(
        "restorefs serve --mount /mnt/backups &",
        "",
        &[],
        "ready 'mountpoint -q /mnt/backups'",
    ),
    step("cat \"$S/status\"", "", &["vda", "vdb"], ""),
    step(
        "cp --sparse=always vda.img",
        "",
        &[],
        "cmp /mnt/backups/db01/latest/disks/vda.raw vda.img; cmp /mnt/backups/db01/latest/disks/vdb.raw b.raw; [ -e /mnt/backups/db01/latest/attached/domain.xml ]",
    ),
    step(
        "mkdir \"$S\" && rm -r",
        "",
        &[],
        "[ ! -e \"$S\" ]; ls /srv/repo/vms/db01/points | wc -l | grep -x 2",
    ),
    step(
        "restorefs serve --mount /mnt/backups --nbd",
        "",
        &[],
        "ready '[ -S /run/restorefs/nbd.sock ] && mountpoint -q /mnt/backups'",
    ),
    step("S=$(restorefs begin", "", &[], "[ -n \"$S\" ]"),
    step(
        "restorefs commit",
        "",
        &[],
        "cmp /mnt/backups/web01/latest/disks/vda.raw wednesday.raw",
    ),
    step(
        "restorefs begin web01 --session tried",
        "",
        &["tried"],
        "if restorefs sessions | grep tried; then false; fi",
    ),
    step("restorefs jobs web01", "", &["committed", "aborted"], ""),
    step(
        "restorefs serve --nbd-listen",
        "",
        &[],
        "ready \"nbdinfo --list 'nbds://192.0.2.7/?tls-certificates=$PWD'\"",
    ),
    step("nbdinfo --size", "", &["33554432"], ""),
    step(
        "editor",
        "",
        &[],
        "grep -x 'path = \"/srv/restorefs/repo\"' /etc/restorefs/config.toml",
    ),
    step(
        "runuser",
        "",
        &[],
        "[ \"$(stat -c %U /srv/restorefs/repo)\" = restorefs ]",
    ),
    step("adduser", "", &[], "id -nG agent | grep -w restorefs"),
    step(
        "qemu-img convert -O qcow2",
        "",
        &[],
        "qemu-img compare vda.qcow2 wednesday.raw",
    ),
    step(
        "mount -t overlay",
        "",
        &[],
        "[ -x /run/try/merged/bin/sh ]; echo changed > /run/try/merged/etc/fstab",
    ),
    step(
        "chroot",
        "",
        &[],
        "chroot /run/try/merged /bin/sh -c 'read line < /etc/fstab; [ \"$line\" = changed ]'; umount /run/try/merged /run/try",
    ),
    step(
        "P=$(jq -rs",
        // One with a name of its own, which sorts last.
        "restorefs backup web01 vda=snapshot.raw --point zz-before-upgrade; restorefs backup web01 vda=snapshot.raw",
        &[],
        "[ \"$P\" != zz-before-upgrade ]; [ \"$P\" = \"$(restorefs info web01@latest --json | jq -r .point)\" ]",
    ),
    step(
        "qemu-img convert -O raw \"/srv/repo",
        "",
        &[],
        "cmp vda.raw snapshot.raw",
    ),
    step(
        "restorefs backup web01 --qmp /run/web01.qmp --dry-run",
        "",
        &["TO READ", "vda"],
        "",
    ),
    step(
        "restorefs backup web01 --qmp /run/web01.qmp$",
        "",
        &["committed"],
        "",
    ),
    step(
        "restorefs backup web01 --qmp /run/web01.qmp --limit",
        "",
        &["incremental"],
        "restorefs restore web01@latest vda pulled.raw --force; cmp pulled.raw running.raw",
    ),
    step(
        "restorefs backup web01 vda=/var/lib/libvirt",
        "",
        &[],
        "restorefs restore web01@latest vda pulled.raw --force; cmp pulled.raw running.raw",
    ),
    step(
        "restorefs -r /srv/offsite ls",
        "",
        &["web01", "db01"],
        "restorefs -r /srv/offsite restore web01@latest vda pulled.raw --force; cmp pulled.raw running.raw",
    ),
    step(
        "restorefs forget web01 --keep-daily 7 --keep-weekly 4 --keep-monthly 12 --dry-run",
        "",
        &[
            "daily, weekly, monthly",
            "oldest",
            "no rule keeps it",
            "freed",
        ],
        "restorefs info web01@latest~2 --json | jq .point",
    ),
    step(
        "restorefs forget web01 --keep-daily 7 --keep-weekly 4 --keep-monthly 12$",
        "",
        &["2 points kept"],
        "ls /srv/repo/vms/web01/points | wc -l | grep -x 2",
    ),
    step(
        "restorefs forget db01 --all",
        "",
        &["named"],
        "[ -z \"$(ls /srv/repo/vms/db01/points)\" ]",
    ),
    step(
        "restorefs tag web01@latest release=1.2",
        "restorefs backup web01 vda=snapshot.raw; restorefs backup web01 vda=snapshot.raw",
        &["release=1.2"],
        "",
    ),
    step(
        "restorefs forget web01 --keep-last 1 --keep-tag release --dry-run",
        "",
        &["kept by hand, tag release=1.2"],
        "",
    ),
    step(
        "restorefs trash$",
        "",
        &["restore point", "layer", "db01"],
        "",
    ),
    step(
        "restorefs trash --empty",
        "",
        &["deleted"],
        "[ -z \"$(ls /srv/repo/trash)\" ]; restorefs restore web01@latest vda kept.raw; cmp kept.raw snapshot.raw",
    ),
    step(
        "restorefs undelete web01@2026-11-20_02-00-00",
        "restorefs backup web01 vda=snapshot.raw --point 2026-11-20_02-00-00; restorefs forget web01@2026-11-20_02-00-00",
        &["web01@2026-11-20_02-00-00 is back"],
        "restorefs restore web01@2026-11-20_02-00-00 vda back.raw; cmp back.raw snapshot.raw",
    ),
    step(
        "restorefs rename web01 web-frankfurt",
        "",
        &["web01 is web-frankfurt now"],
        "restorefs rename web-frankfurt web01",
    ),
    step(
        "restorefs remove test01",
        "restorefs backup test01 vda=snapshot.raw",
        &["test01 is removed, with 1 restore point"],
        "! restorefs ls test01",
    ),
    step(
        "restorefs verify$",
        "",
        &["verified", "no damage found"],
        "ls /srv/repo/vms/web01/state/*.checks.json",
    ),
    step(
        "restorefs verify --outdated-after 30d",
        "",
        &["0 layers verified"],
        "",
    ),
    step("restorefs check$", "", &["no damage found"], ""),
    step("restorefs verify web01 --json", "", &["sound_since"], ""),
    step(
        "restorefs status$",
        "restorefs backup db01 vda=a.raw; restorefs backup web01 vda=snapshot.raw",
        &["OK: ", "web01", "db01", "space: ", "trash: "],
        "",
    ),
    step(
        "restorefs status --max-age 26h --quiet",
        "",
        &["OK: 2 VMs"],
        "",
    ),
    step("restorefs jobs -n 20", "", &["committed"], ""),
    step(
        "restorefs status --max-age 26h --json | jq -r .verdict",
        "",
        &["ok"],
        "",
    ),
    step(
        "restorefs status --json | jq -r '.vms[] |",
        "",
        &["web01\t", "db01\t"],
        "",
    ),
    step("restorefs jobs --json", "", &["committed"], ""),
    step(
        "restorefs hold -- sh",
        "",
        &[],
        "[ -d /srv/offsite/vms/web01/layers ]",
    ),
    step(
        "restorefs repo new-id /srv/offsite",
        "said=$(restorefs -r /srv/offsite check 2>&1); grep 'have one id' <<< \"$said\"",
        &["it was"],
        "",
    ),
    step(
        "restorefs repo list",
        "",
        &["main", "offsite", "nas", "FULL IN"],
        "said=$(restorefs -r /srv/offsite check 2>&1); ! grep 'one id' <<< \"$said\"",
    ),
    step("restorefs -r offsite ls", "", &["web01", "db01"], ""),
    step(
        "restorefs repo test offsite",
        "",
        &["flock", "reflink", "sequential read"],
        "",
    ),
    step(
        "restorefs repo remove offsite",
        "",
        &["stays as it is"],
        "[ -e /srv/offsite/restorefs.json ]; restorefs repo remove main",
    ),
    step("restorefs repo add second", "", &["second"], ""),
    step(
        "restorefs copy web01 --to second --dry-run",
        "",
        &["would be copied"],
        "[ ! -e /srv/second/vms/web01 ]",
    ),
    step(
        "restorefs copy web01 --to second$",
        "",
        &["copied"],
        "[ -e /srv/second/vms/web01/vm.json ]; restorefs -r second check",
    ),
    step(
        "restorefs copy 'web*' --to second",
        "",
        &["there already"],
        "",
    ),
    step(
        "restorefs status --check",
        "restorefs copy db01 --to second > /dev/null",
        &["second has all of"],
        "",
    ),
    step(
        "restorefs -r second adopt web01",
        "! restorefs -r second begin web01",
        &["takes backups here"],
        "restorefs -r second status > /dev/null; restorefs repo remove second",
    ),
    step(
        "restorefs repair web01@latest --from offsite",
        "restorefs repo add offsite /srv/offsite; rm \"$(ls /srv/repo/vms/web01/layers/*.qcow2 | tail -1)\"; ! restorefs check",
        &["put back from offsite", "whole again"],
        "restorefs verify web01",
    ),
    step(
        "restorefs repair web01$",
        "",
        &["nothing was repaired"],
        "restorefs repo remove offsite",
    ),
    step("restorefs -r /srv/repo check", "", &["no damage found"], ""),
    step(
        "restorefs -r /srv/repo restore web01@latest",
        "",
        &[],
        "cmp saved.raw snapshot.raw",
    ),
    step(
        "restorefs rebuild-catalog",
        "",
        &["VMs"],
        "[ -e /srv/repo/catalog.redb ]",
    ),
    step(
        "restorefs repair web01 --from /srv/second",
        "restorefs backup web01 vda=snapshot.raw; rm -r /srv/second; restorefs init /srv/second; restorefs copy 'web*' db01 --to /srv/second; rm \"$(ls /srv/repo/vms/web01/layers/*.sums | tail -1)\"; ! restorefs check",
        &["put back from /srv/second", "whole again"],
        "",
    ),
    step(
        "restorefs -r /srv/second restore web01@latest",
        "",
        &[],
        "cmp saved.raw snapshot.raw",
    ),
    step(
        "restorefs -r /srv/new adopt web01",
        "",
        &["takes backups here"],
        "",
    ),
    step(
        "restorefs -r /srv/new backup web01",
        "",
        &["incremental"],
        "restorefs -r /srv/new verify; restorefs -r /srv/new restore web01@latest vda new.raw; cmp new.raw snapshot.raw",
    ),
    step(
        "qemu-img convert -O raw \"$(ls vda-*.qcow2 | tail -1)\" /srv/vda.raw",
        "",
        &[],
        "cmp /srv/vda.raw \"$OLDPWD/snapshot.raw\"",
    ),
    step(
        "restorefs info$",
        "",
        &["workers", "landlock ABI", "seccomp"],
        "",
    ),
    step(
        "restorefs policy show nightly",
        "",
        &[
            "daily 02:00",
            "7 daily, 4 weekly",
            "to far, 60m after the commit",
        ],
        "",
    ),
    step(
        "restorefs policy run --dry-run",
        "",
        &["backup", "web09", "due"],
        "if restorefs ls web09 2> /dev/null; then false; fi",
    ),
    step(
        "restorefs token add laptop",
        "",
        &["rfs_"],
        "grep -q backup-operators /etc/restorefs/access.toml",
    ),
    step(
        "restorefs token list",
        "",
        &["laptop", "prometheus", "metrics"],
        "",
    ),
    step(
        "restorefs token revoke laptop",
        "",
        &["/etc/restorefs/access.toml"],
        "restorefs token list | grep prometheus; if restorefs token list | grep laptop; then false; fi",
    ),
    step(
        "restorefs -r /srv/guarded serve",
        "",
        &[],
        "ready '[ -S /run/guarded.sock ]'",
    ),
    step(
        "restorefs serve --http 127.0.0.1:8420",
        "",
        &[],
        "ready 'exec 7<> /dev/tcp/127.0.0.1/8420'
         printf 'GET /login HTTP/1.0\r\nHost: 127.0.0.1:8420\r\n\r\n' >&7; grep -q 'Code or token' <&7; exec 7>&-",
    ),
    step(
        "jq -r '[.time, .door, .caller",
        "",
        &["control\tuser 0\tbegin\tweb01\tnightly\tok", "abort"],
        "",
    ),
];

/// What belongs to single lines of all pages.
pub(crate) fn steps() -> impl Iterator<Item = &'static Step> {
    STEPS.iter().chain(PROGRAM)
}
