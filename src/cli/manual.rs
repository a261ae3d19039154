//! The parts of man pages that are not in the table of arguments: examples, exit status,
//! environment, files, and related pages. Only definitions, for the build.

/// A command line and what it does.
pub type Example = (&'static str, &'static str);

/// Examples by subcommand; the empty name is the program itself.
pub const EXAMPLES: [(&str, &[Example]); 40] = [
    (
        "",
        &[
            ("restorefs init /srv/repo", "Make a repository."),
            (
                "restorefs -r /srv/repo backup web01 vda=/dev/vg0/web01-snap",
                "Back up a disk of a VM; from the second time on only what has changed is stored.",
            ),
            (
                "restorefs -r /srv/repo mount /mnt/backups",
                "Show all restore points as directories.",
            ),
            (
                "restorefs -r /srv/repo restore web01@latest vda out.raw",
                "Restore a disk.",
            ),
        ],
    ),
    (
        "init",
        &[(
            "restorefs init /srv/repo",
            "Make a repository in a new or empty directory.",
        )],
    ),
    (
        "backup",
        &[
            (
                "restorefs backup web01 vda=monday.raw vdb=qcow2:data.qcow2",
                "Back up two disks, a raw file and a QCOW2 image, as one restore point.",
            ),
            (
                "restorefs backup web01 vda=nbd+unix:///vda?socket=/run/web01.sock --compress zstd",
                "Back up an NBD export, and compress the stored data.",
            ),
            (
                "restorefs backup web01 --libvirt web01 --server https://backup01:8420 --token-file /etc/restorefs/token --tls-dir /etc/restorefs/tls",
                "Back up a running machine to the repository of another host.",
            ),
            (
                "restorefs backup web01 vda=/dev/vg0/web01-snap --attach domain.xml",
                "Back up a snapshot, and keep the domain's XML with the restore point.",
            ),
        ],
    ),
    (
        "begin",
        &[
            (
                "restorefs begin web01 vda=20G --session nightly",
                "Begin a session with a disk of 20 GiB. Its NBD URI is printed: write the disk there, then commit.",
            ),
            (
                "restorefs begin web01 --changed-only --previous-change-id vda=17",
                "Begin a session into which only the changes since change id 17 are written.",
            ),
        ],
    ),
    (
        "commit",
        &[(
            "restorefs commit web01/nightly --change-id vda=18",
            "Make a restore point of a session, and keep the change id of its disk.",
        )],
    ),
    (
        "abort",
        &[(
            "restorefs abort web01/nightly",
            "End a session, and discard the written data.",
        )],
    ),
    (
        "sessions",
        &[(
            "restorefs sessions",
            "List the open sessions, and those that wait for the next daemon.",
        )],
    ),
    (
        "jobs",
        &[
            (
                "restorefs jobs web01 -n 5",
                "Show how the last five jobs of a VM have ended.",
            ),
            (
                "restorefs jobs --failed --kind merge",
                "Show the merges that have failed.",
            ),
            (
                "restorefs jobs --follow --json",
                "Print each change as one line of JSON, until Ctrl-C.",
            ),
        ],
    ),
    (
        "cancel",
        &[(
            "restorefs cancel 3f9a2c41",
            "Stop the job that jobs shows with this id.",
        )],
    ),
    (
        "ls",
        &[
            ("restorefs ls web01", "List the restore points of a VM."),
            (
                "restorefs ls web01@latest:/files/etc",
                "List a directory of the guest.",
            ),
        ],
    ),
    (
        "info",
        &[(
            "restorefs info web01@latest~2 --json",
            "Show the third newest restore point.",
        )],
    ),
    (
        "volumes",
        &[(
            "restorefs volumes web01@latest",
            "List the volumes, and what could not be read, and why.",
        )],
    ),
    (
        "restore",
        &[
            (
                "restorefs restore web01@latest vda /dev/vg0/web01",
                "Restore a disk to a block device.",
            ),
            (
                "restorefs restore web01@latest vda /dev/vg0/web01 --changed-only",
                "Bring a device back to the restore point: only what differs is written.",
            ),
            (
                "restorefs restore web01@2026-11-20_02-00-00 --to disks",
                "Restore all disks and attached files into a directory.",
            ),
            (
                "restorefs restore web01@latest:/files/etc/nginx --to etc",
                "Restore a directory of the guest.",
            ),
            (
                "restorefs restore web01@latest:/files/srv --to - --format tar",
                "Write a directory of the guest to standard output, as a tar.",
            ),
        ],
    ),
    (
        "forget",
        &[
            (
                "restorefs forget web01 --keep-daily 7 --keep-weekly 4 --keep-monthly 12 --dry-run",
                "Show which restore points of a VM would stay, and why.",
            ),
            (
                "restorefs forget web* db01 --keep-within-daily 14d --keep-monthly 12 --keep-tag release --time-zone Europe/Berlin --unattended",
                "Forget what no rule keeps, of several VMs: a line for a timer.",
            ),
            (
                "restorefs forget web01@2026-11-20_02-00-00",
                "Forget one restore point; points that were compared with it are not touched.",
            ),
            (
                "restorefs forget --compact web01",
                "Forget nothing, and merge every layer that no restore point needs by itself.",
            ),
        ],
    ),
    (
        "tag",
        &[
            (
                "restorefs tag web01@latest release=1.2",
                "Give a restore point a tag, for --keep-tag of forget.",
            ),
            (
                "restorefs tag web01@latest --remove release",
                "Take a tag away.",
            ),
        ],
    ),
    (
        "keep",
        &[(
            "restorefs keep web01@latest",
            "Keep a restore point, whatever the rules are; --remove ends that.",
        )],
    ),
    (
        "trash",
        &[
            (
                "restorefs trash",
                "List what was removed, and when it is deleted.",
            ),
            (
                "restorefs trash --empty",
                "Delete it now: space comes back at once.",
            ),
        ],
    ),
    (
        "hold",
        &[(
            "restorefs hold -- rsync -a --exclude /cache --exclude /trash --exclude /lock /srv/repo/ backup2:/srv/repo/",
            "Copy the repository to another machine, while backups go on.",
        )],
    ),
    (
        "status",
        &[
            (
                "restorefs status",
                "Show the last restore point of each VM, known damage, and the room that is left.",
            ),
            (
                "restorefs status --max-age 26h",
                "The same as a check: exit code 4 when a VM has no restore point of the last 26 hours.",
            ),
            (
                "restorefs status --check",
                "The same, and ask the repositories to which policies copy what they have.",
            ),
        ],
    ),
    (
        "mount",
        &[
            (
                "restorefs mount /mnt/backups",
                "Mount the repository read-only; new restore points show up by themselves.",
            ),
            (
                "restorefs mount /mnt/web -o vm=web*,allow_other",
                "Show some VMs only, to all users.",
            ),
        ],
    ),
    ("umount", &[("restorefs umount /mnt/backups", "Unmount.")]),
    (
        "map",
        &[
            (
                "restorefs map web01@latest/vda",
                "Attach a disk as a block device, read-only, and print the device.",
            ),
            (
                "restorefs map web01@latest --scratch --partitions",
                "Attach all disks with their partitions; writes to them are discarded at the end.",
            ),
        ],
    ),
    (
        "unmap",
        &[(
            "restorefs unmap web01@latest",
            "Detach all disks of a restore point.",
        )],
    ),
    (
        "serve",
        &[
            (
                "restorefs serve --config /etc/restorefs/config.toml",
                "Serve what the configuration says; the systemd unit runs this.",
            ),
            (
                "restorefs serve --mount /mnt/backups --nbd /run/user/1000/nbd.sock",
                "Serve one repository: the tree, in which sessions can be written, and NBD.",
            ),
        ],
    ),
    (
        "check-config",
        &[(
            "restorefs check-config /etc/restorefs/config.toml",
            "Check a configuration before the daemon reads it.",
        )],
    ),
    (
        "quickstart",
        &[(
            "restorefs quickstart demo",
            "See what restorefs does, in a new directory that can be deleted afterwards.",
        )],
    ),
    (
        "synthetic-full",
        &[(
            "restorefs synthetic-full web01@latest",
            "Make the newest restore point independent of all others.",
        )],
    ),
    (
        "undelete",
        &[(
            "restorefs undelete web01@2026-11-20_02-00-00",
            "Bring a restore point back that was forgotten within the last hour.",
        )],
    ),
    (
        "rename",
        &[(
            "restorefs rename web01 web-frankfurt",
            "Give a VM another name.",
        )],
    ),
    (
        "remove",
        &[(
            "restorefs remove web01",
            "Remove a VM with all its restore points.",
        )],
    ),
    (
        "copy",
        &[
            (
                "restorefs copy web01 --to offsite",
                "Copy to the repository of that name what it lacks of the VM.",
            ),
            (
                "restorefs copy web* --to /mnt/nas/restorefs --limit 50M",
                "Copy all VMs whose names begin with web, with at most 50 MiB a second.",
            ),
            (
                "restorefs copy web01 --to offsite --dry-run",
                "Show which points would be copied.",
            ),
        ],
    ),
    (
        "adopt",
        &[(
            "restorefs -r offsite adopt web01",
            "Let a copied VM take backups at the repository to which it was copied; nothing is copied into it any more.",
        )],
    ),
    (
        "verify",
        &[
            (
                "restorefs verify",
                "Verify everything; exit code 3 tells of damage.",
            ),
            (
                "restorefs verify web* --subset 1/7 --limit 100M",
                "Verify a seventh, for a timer that runs each night with another number.",
            ),
            (
                "restorefs verify --outdated-after 30d --subset 50G",
                "Verify 50 GiB of what was not verified for a month, oldest first.",
            ),
            (
                "restorefs verify db01 --files all",
                "Verify a VM, and name the harmed files of each damaged point.",
            ),
        ],
    ),
    (
        "check",
        &[(
            "restorefs check",
            "Check in seconds that nothing is missing, and all tables are right.",
        )],
    ),
    (
        "repair",
        &[
            (
                "restorefs repair web01@latest --from offsite",
                "Repair what the newest restore point needs, from the copy at offsite.",
            ),
            (
                "restorefs repair web01",
                "Repair all points of a VM from each other, as far as they have the same content.",
            ),
        ],
    ),
    (
        "policy",
        &[
            (
                "restorefs policy add nightly --vms web* --daily 02:00 --keep-daily 7 --keep-weekly 4 --copy-to offsite --copy-after 1h --verify-every 30d --rpo 26h --command /usr/local/sbin/backup-vm",
                "Back up some VMs each night, keep a month of points, copy them, and verify them.",
            ),
            (
                "restorefs policy run --dry-run",
                "Show what is due; without --dry-run it is done: a timer runs this every 15 minutes.",
            ),
            (
                "restorefs policy edit nightly --daily 03:30 --zone Europe/Berlin",
                "Change the time of the backups; all else stays.",
            ),
            (
                "restorefs policy assign web01 gold",
                "Give a VM a policy of its own, whatever the patterns of others are.",
            ),
            (
                "restorefs policy runner --here",
                "Let this machine run the policies of a repository that several machines mount.",
            ),
        ],
    ),
    (
        "repo",
        &[
            (
                "restorefs repo add offsite /mnt/nas/restorefs --media nas --offsite",
                "Name the repository in a directory.",
            ),
            (
                "restorefs -r offsite ls",
                "Use it by its name; exit code 10 when its filesystem is not mounted.",
            ),
            (
                "restorefs repo list",
                "List all named repositories: whether they can be reached, and what they hold.",
            ),
            (
                "restorefs repo test /mnt/nas",
                "Try what a directory can do for a repository: locks, links, reflinks, speed.",
            ),
            (
                "restorefs repo new-id /mnt/copy",
                "Give the copy of a repository an id of its own.",
            ),
            ("restorefs repo remove offsite", "Forget the name."),
        ],
    ),
    (
        "openapi",
        &[(
            "restorefs openapi",
            "Print the description of the HTTP API, for generators of clients.",
        )],
    ),
    (
        "token",
        &[
            (
                "restorefs -r /srv/repo token login",
                "Make a login to the web pages of the daemon that serves the repository.",
            ),
            (
                "restorefs token add laptop --rights read,restore --vms web* --expires 90d",
                "Make a token for two rights on some VMs, and show it; the pattern needs quotes in a shell.",
            ),
            (
                "restorefs token add prometheus --rights metrics --vms * --json",
                "Make a token that reads the metrics of the whole repository.",
            ),
            (
                "restorefs token list",
                "List the tokens; their secrets are kept nowhere.",
            ),
            (
                "restorefs token revoke laptop",
                "End a token; a daemon refuses it from now on.",
            ),
        ],
    ),
    (
        "rebuild-catalog",
        &[(
            "restorefs rebuild-catalog",
            "Rebuild the catalog, and list the damage of the repository.",
        )],
    ),
];

/// Exit codes of every subcommand.
pub const EXIT_STATUS: [(&str, &str); 7] = [
    ("0", "All is well."),
    ("1", "The command failed; the message gives the reason."),
    ("2", "The command line is wrong."),
    (
        "3",
        "Damage was found, or content that is there could not be read.",
    ),
    ("4", "A policy is not met."),
    ("10", "There is no repository."),
    ("11", "Another process holds the repository's lock."),
];

/// Environment variables that the program reads.
pub const ENVIRONMENT: [(&str, &str); 7] = [
    (
        "RESTOREFS_REPO",
        "The repository, where --repo does not name one: a directory, or a name (restorefs repo).",
    ),
    (
        "RESTOREFS_MEMORY",
        "Memory for all that is kept to be fast, as --memory SIZE (512M): resolved chains, guests' files, tables of sessions.",
    ),
    (
        "RESTOREFS_GUEST_ISOLATION",
        "Where guests' filesystems are read, as --guest-isolation HOW: process (each in a process without rights), or thread, for debugging.",
    ),
    (
        "RESTOREFS_RUNTIME_DIR",
        "The directory of control sockets and maps, for a second installation.",
    ),
    (
        "RESTOREFS_CONFIG_DIR",
        "The directory of repositories.toml and access.toml, for a second installation.",
    ),
    (
        "RESTOREFS_ACCESS",
        "The file of the access table, where no --access names one (an absolute path).",
    ),
    (
        "RUST_LOG",
        "What is logged, as tracing's filters are written (restorefs=debug).",
    ),
];

/// Files that the program uses.
pub const FILES: [(&str, &str); 6] = [
    ("/etc/restorefs/config.toml", "Configuration of the daemon."),
    (
        "/etc/restorefs/repositories.toml",
        "Names of repositories. Of users other than root, those in $XDG_CONFIG_HOME/restorefs/repositories.toml come first.",
    ),
    (
        "/etc/restorefs/access.toml",
        "Who may do what. Of users other than root and restorefs, $XDG_CONFIG_HOME/restorefs/access.toml.",
    ),
    (
        "/run/restorefs",
        "Control sockets and maps of root; of other users $XDG_RUNTIME_DIR/restorefs.",
    ),
    ("/var/tmp", "Scratch files of mapped disks."),
    (
        "/usr/share/doc/restorefs",
        "Documentation: tasks, promises, and the format on disk.",
    ),
];

/// Related pages of other programs, by subcommand.
pub const SEE_ALSO: [(&str, &str); 5] = [
    ("mount", "mount(8), fusermount3(1)"),
    ("umount", "umount(8), fusermount3(1)"),
    ("map", "losetup(8)"),
    ("unmap", "losetup(8)"),
    ("serve", "systemd(1), nbd-client(8), qemu-nbd(8)"),
];
