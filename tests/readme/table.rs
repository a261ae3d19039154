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
    "promtool",
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
    "curl",
    "chroot",
];

/// Each block in order: its heading, how it begins, what it is.
pub(crate) const BLOCKS: &[(&str, &str, Kind)] = &[
    ("restorefs", "/mnt/backups/", Kind::Picture),
    ("Two commands", "cargo run", Kind::Shell),
    ("Back up", "restorefs init", Kind::Shell),
    ("Browse and take files out", "restorefs ls", Kind::Shell),
    ("Restore", "restorefs restore", Kind::Shell),
    ("Over HTTP", "restorefs serve", Kind::Shell),
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
        "HTTP",
        "[http]",
        Kind::File {
            path: "/etc/restorefs/http.toml",
            check: "cat /etc/restorefs/config.toml /etc/restorefs/http.toml > /run/http.toml; restorefs check-config /run/http.toml; rm /run/http.toml /etc/restorefs/http.toml",
        },
    ),
    ("HTTP", "restorefs serve --http", Kind::Shell),
    (
        "Put something on top",
        "# /etc/samba/smb.conf",
        Kind::Files { check: "servers" },
    ),
    ("Put something on top", "qemu-img convert", Kind::Shell),
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
        "Scrape",
        "# /etc/prometheus/prometheus.yml",
        Kind::Files { check: "scrape" },
    ),
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
    (
        "The table",
        "[[access]]",
        Kind::File {
            path: "/etc/restorefs/access.toml",
            check: "restorefs token list",
        },
    ),
    ("Tokens", "restorefs token add", Kind::Shell),
    ("Audit log", "restorefs init /srv/guarded", Kind::Shell),
    ("Begin", "restorefs serve", Kind::Shell),
    ("Conventions", "api", Kind::Shell),
    ("What is there", "api $R", Kind::Shell),
    ("Take out", "api $V", Kind::Shell),
    ("Sessions", "N=$(api", Kind::Shell),
    ("Jobs", "J=$(api", Kind::Shell),
    ("Policies", "api -X PUT", Kind::Shell),
    ("Forget and keep", "api -X PATCH", Kind::Shell),
    ("What is here", "restorefs info", Kind::Shell),
    ("Open the pages", "restorefs serve --http", Kind::Shell),
    ("Plain QEMU", "qemu-system-x86_64", Kind::Picture),
    ("Plain QEMU", "restorefs backup web01 --qmp", Kind::Shell),
    ("Domains of libvirt", "restorefs backup web01 --libvirt", Kind::Shell),
    ("AppArmor and SELinux", "# Debian, Ubuntu", Kind::Picture),
    ("Bare NBD", "restorefs backup web01 --pull", Kind::Shell),
    ("To another host", "mkdir /srv/backup", Kind::Picture),
    ("To another host", "install -D -m 400", Kind::Picture),
    ("Proxmox VE (not tested here)", "qm set", Kind::Picture),
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
    // The pages of the API: a repository of their own; each section goes on with a daemon.
    Section {
        name: "Begin",
        before: "programs",
    },
    Section {
        name: "Conventions",
        before: "served",
    },
    Section {
        name: "What is there",
        before: "served",
    },
    Section {
        name: "Take out",
        before: "served",
    },
    Section {
        name: "Sessions",
        before: "served",
    },
    Section {
        name: "Jobs",
        before: "served",
    },
    Section {
        name: "Policies",
        before: "served",
    },
    Section {
        name: "Forget and keep",
        before: "served",
    },
    Section {
        name: "Plain QEMU",
        before: "qemu; mkdir -p /srv/scratch",
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

const NO_LIBVIRT: &str = "no libvirtd runs here";
const BY_TESTS: &str = "tests/capture/libvirt.rs";
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
    elsewhere(
        "restorefs backup web01 --qmp /run/web01.qmp --guest-agent",
        "no guest answers here",
        "tests/capture/agent.rs",
        false,
        "",
    ),
    elsewhere("restorefs backup web01 --libvirt web01$", NO_LIBVIRT, BY_TESTS, false, ""),
    elsewhere("restorefs backup web01 --libvirt web01 --quiesce", NO_LIBVIRT, BY_TESTS, false, ""),
    elsewhere("restorefs backup web01 --libvirt web01 --dry-run", NO_LIBVIRT, BY_TESTS, false, ""),
    elsewhere(
        "restorefs backup web01 --pull",
        "there is no such host",
        "tests/capture/pull.rs",
        false,
        "",
    ),
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
