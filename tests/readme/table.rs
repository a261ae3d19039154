//! What each block of the pages is, what its lines need and say, and which of them are run elsewhere.

/// What a block is.
pub(crate) enum Kind {
    /// A tree, for the eyes.
    Picture,
    /// Commands.
    Shell,
    /// A file: put there before the section's first command, looked at by `check` where the block stands.
    File {
        path: &'static str,
        check: &'static str,
    },
    /// Several, each under a line that says its path.
    Files { check: &'static str },
}

/// What a section takes for granted.
pub(crate) struct Section {
    pub(crate) name: &'static str,
    pub(crate) before: &'static str,
}

/// Whether a line begins so, or with a `$` at the end of `begins` is so.
pub(crate) fn fits(line: &str, begins: &str) -> bool {
    begins
        .strip_suffix('$')
        .map_or_else(|| line.starts_with(begins), |all| line == all)
}

/// What belongs to one line.
pub(crate) struct Step {
    /// How it begins ([`fits`]).
    pub(crate) line: &'static str,
    /// Run before it.
    pub(crate) before: &'static str,
    /// What it prints.
    pub(crate) says: &'static [&'static str],
    /// Run after it: has to succeed.
    pub(crate) after: &'static str,
}

/// A line that is not run here.
pub(crate) struct Elsewhere {
    /// How it begins.
    pub(crate) line: &'static str,
    pub(crate) reason: &'static str,
    /// What runs it.
    pub(crate) run_by: &'static str,
    /// Whether `tests/vm/steps` must have it, as it is.
    pub(crate) on_machine: bool,
    /// What is run here in its place.
    pub(crate) instead: &'static str,
}

const fn step(
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

const fn elsewhere(
    line: &'static str,
    reason: &'static str,
    run_by: &'static str,
    on_machine: bool,
    instead: &'static str,
) -> Elsewhere {
    Elsewhere {
        line,
        reason,
        run_by,
        on_machine,
        instead,
    }
}

/// Programs that the lines are, and that prepare them.
pub(crate) const TOOLS: &[&str] = &[
    "unshare",
    "ip",
    "mke2fs",
    "debugfs",
    "sfdisk",
    "partx",
    "losetup",
    "setfattr",
    "busybox",
    "qemu-img",
    "qemu-nbd",
    "nbdcopy",
    "nbdinfo",
    "nbdfuse",
    "fusermount3",
    "rsync",
    "jq",
    "openssl",
    "testparm",
    "zstd",
    "useradd",
    "adduser",
    "runuser",
    "findmnt",
    "systemd-analyze",
    "setpriv",
    "flock",
    "ganesha.nfsd",
    "nfs-ls",
    "cmp",
    "chroot",
];

/// Each block in order: its heading, how it begins, what it is.
pub(crate) const BLOCKS: &[(&str, &str, Kind)] = &[
    ("restorefs", "/mnt/backups/", Kind::Picture),
    ("Two commands", "cargo run", Kind::Shell),
    ("Back up", "restorefs init", Kind::Shell),
    ("Browse and take files out", "restorefs ls", Kind::Shell),
    ("Restore", "restorefs restore", Kind::Shell),
    ("Map as a block device", "D=$(restorefs map", Kind::Shell),
    ("Map as a block device", "restorefs mount", Kind::Shell),
    ("Without restorefs", "P=$(jq", Kind::Shell),
    ("Write as files", "restorefs serve", Kind::Shell),
    ("Write over NBD", "restorefs serve", Kind::Shell),
    ("TLS", "A='-x509", Kind::Shell),
    (
        "TLS",
        "[[access]]",
        Kind::File {
            path: "/etc/restorefs/access.toml",
            check: "",
        },
    ),
    ("As a service", "install -d", Kind::Shell),
    (
        "As a service",
        "[Unit]",
        Kind::File {
            path: "/etc/systemd/system/restorefs.service.d/override.conf",
            check: "said=$(systemd-analyze verify --man=no --recursive-errors=no /etc/systemd/system/restorefs.service 2>&1) || { echo \"$said\"; false; }
                    if grep -E 'override.conf|Unknown' <<< \"$said\"; then false; fi",
        },
    ),
    (
        "As a service",
        "/srv/restorefs/repo /mnt/backups",
        Kind::File {
            path: "/etc/fstab",
            check: "findmnt --verify --tab-file /etc/fstab
                    mount /mnt/backups; [ -e /mnt/backups/vm1/one/disks/vda.raw ]; findmnt -n -t fuse.restorefs /mnt/backups; umount /mnt/backups",
        },
    ),
    (
        "Put something on top",
        "# /etc/samba/smb.conf",
        Kind::Files { check: "servers" },
    ),
    ("Put something on top", "qemu-img convert", Kind::Shell),
    (
        "A machine that runs",
        "<!-- /etc/restorefs/web01-backup.xml",
        Kind::File {
            path: "/etc/restorefs/web01-backup.xml",
            check: "xml /etc/restorefs/web01-backup.xml",
        },
    ),
    ("A machine that runs", "virsh backup-begin", Kind::Shell),
    ("A machine that runs", "virsh snapshot-create-as", Kind::Shell),
    ("Copying the repository", "O=", Kind::Shell),
    ("More than one repository", "restorefs repo", Kind::Shell),
    ("Copying", "restorefs init /srv/second", Kind::Shell),
    ("Copying", "restorefs status --check", Kind::Shell),
    ("Copying", "restorefs -r second adopt", Kind::Shell),
    ("Repair from a copy", "restorefs repair", Kind::Shell),
    (
        "Where the names are",
        "[[repository]]",
        Kind::File {
            path: "/etc/restorefs/repositories.toml",
            check: "restorefs repo list | grep 'not there'; rm /etc/restorefs/repositories.toml",
        },
    ),
    ("See what would happen", "restorefs forget", Kind::Shell),
    ("Forget", "restorefs forget", Kind::Shell),
    ("Keep some for ever", "restorefs tag", Kind::Shell),
    ("When space comes back", "restorefs forget", Kind::Shell),
    ("When space comes back", "restorefs trash", Kind::Shell),
    ("Forgotten by mistake", "restorefs undelete", Kind::Shell),
    ("Rename or remove a VM", "restorefs rename", Kind::Shell),
    ("In a timer", "restorefs forget", Kind::Shell),
    ("Everything, or a part each night", "restorefs verify", Kind::Shell),
    ("Seconds: is anything missing?", "restorefs check", Kind::Shell),
    ("When something is damaged", "restorefs verify", Kind::Shell),
    ("Look", "restorefs status", Kind::Shell),
    (
        "Nagios, Icinga and what else runs plugins",
        "#!/bin/sh",
        Kind::File {
            path: "/etc/restorefs/check_restorefs",
            check: "plugin",
        },
    ),
    (
        "systemd timers",
        "# /etc/systemd/system/restorefs-status.service",
        Kind::Files {
            check: "units restorefs-status.timer restorefs-forget.timer restorefs-alert@x.service",
        },
    ),
    ("Programs", "restorefs status", Kind::Shell),
    (
        "What a backup is",
        "#!/bin/sh",
        Kind::File {
            path: "/etc/restorefs/backup-vm",
            check: "sh -n /etc/restorefs/backup-vm",
        },
    ),
    ("Add a policy", "restorefs repo add far", Kind::Shell),
    ("Run what is due", "restorefs policy run", Kind::Shell),
    ("Run what is due", "restorefs policy runner", Kind::Shell),
    ("Is it kept?", "restorefs status", Kind::Shell),
    ("Change and remove", "restorefs policy edit", Kind::Shell),
    ("The host is lost", "restorefs -r /srv/repo check", Kind::Shell),
    ("The catalog is lost", "rm /srv/repo/catalog.redb", Kind::Shell),
    ("A layer or a sidecar is lost", "restorefs repair", Kind::Shell),
    ("The repository is lost", "restorefs -r /srv/second ls", Kind::Shell),
    ("The repository is lost", "restorefs init /srv/new", Kind::Shell),
    ("Only layers are left", "cd /srv/repo", Kind::Shell),
    ("What is here", "restorefs info", Kind::Shell),
];

/// What sections take for granted; the disks are made by the first that backs up.
pub(crate) const SECTIONS: &[Section] = &[
    Section {
        name: "Back up",
        before: "guest; second; echo '<domain/>' > domain.xml",
    },
    Section {
        name: "Browse and take files out",
        before: "mkdir /mnt/backups",
    },
    Section {
        name: "Restore",
        before: "mkdir /srv/there",
    },
    Section {
        name: "Map as a block device",
        before: "ln -s \"$SOURCE/mount-helpers\" mount-helpers; mkdir -p /etc/udev/rules.d",
    },
    Section {
        name: "As a service",
        before: "installed",
    },
    Section {
        name: "Put something on top",
        before: "restorefs mount -o allow_other /mnt/backups",
    },
    // A VM of which there is nothing yet is backed up, too.
    Section {
        name: "Add a policy",
        before: "mkdir /srv/images; cp --sparse=always snapshot.raw /srv/images/web09.raw",
    },
    Section {
        name: "Run what is due",
        before: "restorefs policy edit nightly --vms 'web*' web09",
    },
    Section {
        name: "A machine that runs",
        before: "machine; said=$(restorefs backup web01 vda=/var/lib/libvirt/images/web01.qcow2 2>&1) && false; grep -q 'QEMU process' <<< \"$said\"",
    },
];

/// Commands within the text, verbatim, and the line after which each is run.
pub(crate) const INLINE: &[(&str, &str)] = &[
    (
        "restorefs unmap --stale",
        "install -m 644 mount-helpers/55-restorefs-map.rules /etc/udev/rules.d/",
    ),
    (
        "mkdir \"$S\"$",
        "setfattr -n user.restorefs.full -v vda \"$S\"",
    ),
    (
        "restorefs jobs web01",
        "nbdinfo --list 'nbd+unix:///?socket=/run/restorefs/nbd.sock'",
    ),
];

/// What belongs to single lines.
pub(crate) const STEPS: &[Step] = &[
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
        "restorefs backup web01 'vda=nbd+unix",
        "",
        &[],
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
];

const NO_LIBVIRT: &str = "libvirt is not installed";
const BY_QMP: &str =
    "here a qemu-storage-daemon is the machine, and does by QMP what libvirt asks of QEMU";

const NO_SYSTEMD: &str = "systemd is not the first process";

/// Lines that are not run here.
pub(crate) const ELSEWHERE: &[Elsewhere] = &[
    elsewhere(
        "cargo run --release -- quickstart",
        "it builds the program",
        "here the built program makes a quickstart",
        false,
        "restorefs quickstart demo; cat demo/mnt/sample/latest/files/etc/added-on-tuesday; restorefs umount demo/mnt",
    ),
    elsewhere("tests/run", "it is what runs this", "itself", false, ""),
    elsewhere("virsh backup-begin", NO_LIBVIRT, BY_QMP, false, "pull; overwrite"),
    elsewhere("virsh domjobabort", NO_LIBVIRT, BY_QMP, false, "pull_end; rewrite"),
    elsewhere("virsh snapshot-create-as", NO_LIBVIRT, BY_QMP, false, "overlay; overwrite"),
    elsewhere("virsh blockcommit", NO_LIBVIRT, BY_QMP, false, "blockcommit"),
    elsewhere(
        "systemctl enable --now restorefs",
        NO_SYSTEMD,
        "tests/vm/steps; here the daemon is started as that user",
        true,
        "sed -i 's|/run/restorefs/nbd.sock|/run/restorefs/daemon/nbd.sock|' /etc/restorefs/config.toml
         setpriv --reuid restorefs --regid restorefs --init-groups restorefs serve --config /etc/restorefs/config.toml --no-mount &
         ready '[ -S /run/restorefs/daemon/nbd.sock ]'
         restorefs --repo /srv/restorefs/repo backup vm1 vda=a.raw --point one",
    ),
    elsewhere(
        "systemctl reload restorefs",
        NO_SYSTEMD,
        "tests/vm/steps",
        true,
        "kill -HUP $(pgrep -u restorefs -x restorefs); sleep 0.3; restorefs --repo /srv/restorefs/repo sessions",
    ),
];
