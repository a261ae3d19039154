//! The command line as clap sees it. This file has only definitions, so that the build makes man
//! pages and completions from the same table.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

#[path = "capture_args.rs"]
pub mod capture;
#[path = "copy_args.rs"]
pub mod copy;
#[path = "policy_args.rs"]
pub mod policy;
#[path = "repo_args.rs"]
pub mod repo;
#[path = "retention_args.rs"]
pub mod retention;
#[path = "token_args.rs"]
pub mod token;
#[path = "verify_args.rs"]
pub mod verify;

/// Virtual-machine backups as a filesystem: take them, browse them, restore from them.
#[derive(Debug, Parser)]
#[command(
    name = "restorefs",
    version,
    about,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "Points are named VM@POINT: web01@latest, web01@latest~2, web01@2026-11-20_02-00-00.\n\
                  Exit codes: 0 ok, 1 error, 2 usage, 3 damage found, 4 policy not met, 10 no repository, 11 locked."
)]
pub struct Cli {
    /// The repository: its directory or its name
    #[arg(short, long, global = true, env = "RESTOREFS_REPO", hide_env_values = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub repo: Option<PathBuf>,
    /// Answer in JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// Print nothing when all is well, but for what was asked for (lists, JSON); warnings and errors are printed
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Wait this long (30s, 10m, 2h) for the repository's lock instead of ending with exit code 11
    #[arg(long, global = true, value_name = "TIME", hide_short_help = true)]
    pub wait: Option<String>,
    /// Where guests' filesystems are read: each in a process without rights, or in threads (for debugging)
    #[arg(
        long,
        global = true,
        env = "RESTOREFS_GUEST_ISOLATION",
        hide_env_values = true,
        value_name = "HOW",
        default_value = "process",
        hide = true
    )]
    pub guest_isolation: GuestIsolation,
    /// Memory for all that is kept to be fast
    #[arg(
        long,
        global = true,
        env = "RESTOREFS_MEMORY",
        hide_env_values = true,
        value_name = "SIZE",
        default_value = "512M",
        hide = true
    )]
    pub memory: String,
    /// Say more; twice for debugging
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// Where guests' filesystems are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GuestIsolation {
    /// Each in a process of its own, without rights
    Process,
    /// In this process
    Thread,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a repository
    Init(Init),
    /// Back up all disks of a VM as one restore point
    Backup(Box<Backup>),
    /// Begin a session: disks are then written over NBD
    Begin(Begin),
    /// Make a restore point of a session
    Commit(Commit),
    /// End a session without a restore point
    Abort(Abort),
    /// List the open sessions
    Sessions(Sessions),
    /// Show what runs and what has ended: backups, merges and other work
    Jobs(Jobs),
    /// Stop what runs: a backup, a merge, a verification, a restore
    Cancel(Cancel),
    /// List VMs, points, or the tree below a point
    Ls(Ls),
    /// Show all that is known of a restore point
    Info(Info),
    /// List the partitions and volumes of a restore point
    Volumes(Volumes),
    /// Restore a disk, all disks, or files of a guest
    Restore(Restore),
    /// Forget restore points, by rules or by name
    Forget(Box<retention::Forget>),
    /// Show or change the tags of a restore point
    Tag(retention::Tag),
    /// Keep a restore point: no rule forgets it
    Keep(retention::KeepPoint),
    /// List what was removed and is not deleted yet, or delete it
    Trash(retention::Trash),
    /// Bring a forgotten restore point back from the trash
    Undelete(retention::Undelete),
    /// Give a VM another name
    Rename(retention::Rename),
    /// Remove a VM with all its restore points
    Remove(retention::Remove),
    /// Verify that every restore point is there, as it was committed
    Verify(verify::Verify),
    /// Check everything but the data of layers: takes seconds
    Check(verify::Check),
    /// Repair damaged restore points from a copy
    Repair(verify::Repair),
    /// Run a command that copies the repository, while its layers stay as they are
    Hold(Hold),
    /// Show the state of the repository and its VMs, for people and for monitoring
    Status(Status),
    /// Mount the repository read-only; commits of others show up
    Mount(Mount),
    /// Unmount
    Umount(Umount),
    /// Attach disks of a restore point as block devices; alone: list them
    Map(Map),
    /// Detach what `map` has attached
    Unmap(Unmap),
    /// Run the daemon: the mounted tree, NBD and the control socket in one process
    Serve(Serve),
    /// Check a daemon's configuration, and what it needs on this machine
    CheckConfig(CheckConfig),
    /// Make a repository with two backups of a sample disk, mount it and show it
    Quickstart(Quickstart),
    /// Make the layers of a restore point full, without reading its source
    SyntheticFull(retention::SyntheticFull),
    /// Copy restore points to another repository
    Copy(copy::Copy),
    /// Make a VM that is a copy one of this repository: it takes backups then
    Adopt(copy::Adopt),
    /// Say what happens to VMs by itself: backups, retention, copies, verification
    Policy(policy::Policy),
    /// Name repositories, and list those that have a name
    Repo(repo::Repo),
    /// Make, list and revoke tokens, with which programs elsewhere are admitted
    Token(token::Token),
    /// Print the description of the HTTP API (OpenAPI 3.1)
    Openapi(Openapi),
    /// Build the catalog anew from the sidecars
    RebuildCatalog(RebuildCatalog),
    /// Print the names that a word can become: for the completions of shells
    #[command(hide = true)]
    CompleteNames(CompleteNames),
}

/// Arguments of `init`.
#[derive(Debug, Args)]
pub struct Init {
    /// An empty or new directory; --repo if left out
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub dir: Option<PathBuf>,
}

/// Flags of what begins a session.
#[derive(Debug, Args)]
pub struct BeginFlags {
    /// Name of the restore point; by default the time, in UTC
    #[arg(long, value_name = "NAME")]
    pub point: Option<String>,
    /// Store everything; with disks named (--full vda), only theirs
    #[arg(long, value_name = "DISK", num_args = 0..=1, default_missing_value = "")]
    pub full: Vec<OsString>,
    /// Compare with the last full point instead of the newest
    #[arg(long)]
    pub differential: bool,
    /// Stable key of a disk (the hypervisor's device key or serial): it is known by it under any name
    #[arg(long, value_name = "DISK=KEY")]
    pub key: Vec<String>,
    /// Compression of what is stored: none, zlib, zstd
    #[arg(long, value_name = "METHOD", default_value = "none")]
    pub compress: String,
    /// Begin also when the repository's filesystem has no room for what is expected, or what the sources report as data
    #[arg(long)]
    pub no_room_check: bool,
}

/// Flags that say something of a session's disks at its commit.
#[derive(Debug, Args)]
pub struct DeclareFlags {
    /// Change id of a disk, kept for the capture agent
    #[arg(long, value_name = "DISK=ID")]
    pub change_id: Vec<String>,
    /// This disk has not changed since the parent
    #[arg(long, value_name = "DISK")]
    pub unchanged: Vec<String>,
    /// The VM does not have this disk any more
    #[arg(long, value_name = "DISK")]
    pub without: Vec<String>,
}

/// Arguments of `backup`.
#[derive(Debug, Args)]
pub struct Backup {
    /// The VM; made when there is none of that name
    #[arg(value_name = "VM")]
    pub vm: OsString,
    /// Disks and where their content is: a file, a block device, FORMAT:PATH or an NBD URI
    #[arg(value_name = "DISK=SOURCE")]
    pub disks: Vec<OsString>,
    /// Format of the files, instead of what their extensions tell: raw, qcow2, vmdk, vhdx, vdi, vpc, qed
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Let QCOW2 sources open backing and data files below this directory
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub allow_backing: Vec<PathBuf>,
    /// End with exit code 3 when what a disk would be compared with is damaged, instead of storing the disk in full
    #[arg(long)]
    pub strict: bool,
    /// A file to keep with the point (the domain's XML, notes)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub attach: Vec<PathBuf>,
    /// Do not begin when less than this would stay free; by default 2 % of the filesystem, at most 1G
    #[arg(long, value_name = "SIZE")]
    pub low_water: Option<String>,
    /// Copy sources that are being written (by a running QEMU, a mounted filesystem): the point's consistency is then unknown
    #[arg(long)]
    pub force_share: bool,
    /// How the session begins
    #[command(flatten)]
    pub begin: BeginFlags,
    /// What is said of the disks
    #[command(flatten)]
    pub declared: DeclareFlags,
    /// A machine that runs
    #[command(flatten)]
    pub capture: capture::CaptureFlags,
}

/// Arguments of `begin`.
#[derive(Debug, Args)]
pub struct Begin {
    /// The VM; made when there is none of that name
    #[arg(value_name = "VM")]
    pub vm: OsString,
    /// Disks that are new or have another size; sizes default to the parent's
    #[arg(value_name = "DISK=SIZE")]
    pub disks: Vec<OsString>,
    /// Name of the session
    #[arg(long, value_name = "NAME")]
    pub session: Option<String>,
    /// Compare with this point
    #[arg(long, value_name = "POINT")]
    pub parent: Option<String>,
    /// The VM does not have this disk of the parent any more
    #[arg(long, value_name = "DISK")]
    pub without: Vec<String>,
    /// Only what changed since the parent is sent; the commit needs --previous-change-id of each disk that has a parent
    #[arg(long)]
    pub changed_only: bool,
    /// The change id that a disk's changes are counted from; refused when it is not the parent's
    #[arg(long, value_name = "DISK=ID")]
    pub previous_change_id: Vec<String>,
    /// End the session after this time without activity (90s, 30m, 6h, 2d)
    #[arg(long, value_name = "TIME", default_value = "24h")]
    pub ttl: String,
    /// How the session begins
    #[command(flatten)]
    pub begin: BeginFlags,
}

/// Arguments of `commit`.
#[derive(Debug, Args)]
pub struct Commit {
    /// The session
    #[arg(value_name = "VM/SESSION")]
    pub session: String,
    /// Name of the restore point
    #[arg(long, value_name = "NAME")]
    pub point: Option<String>,
    /// The change id that a disk's changes were counted from (begin --changed-only)
    #[arg(long, value_name = "DISK=ID")]
    pub previous_change_id: Vec<String>,
    /// The bytes of this new disk are its own, although they begin as those of an image (qcow2, vmdk ...)
    #[arg(long, value_name = "DISK")]
    pub raw: Vec<String>,
    /// What is said of the disks
    #[command(flatten)]
    pub declared: DeclareFlags,
}

/// Arguments of `abort`.
#[derive(Debug, Args)]
pub struct Abort {
    /// The session
    #[arg(value_name = "VM/SESSION")]
    pub session: String,
}

/// Arguments of `sessions`.
#[derive(Debug, Args)]
pub struct Sessions {}

/// Arguments of `jobs`.
#[derive(Debug, Args)]
pub struct Jobs {
    /// Show this VM only
    #[arg(value_name = "VM")]
    pub vm: Option<String>,
    /// Show at most this many, the newest first; 0: all
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    pub number: usize,
    /// Show this kind only
    #[arg(long, value_name = "KIND")]
    pub kind: Option<JobKind>,
    /// Show only what has failed or expired
    #[arg(long)]
    pub failed: bool,
    /// Print what begins and ends as it happens, until Ctrl-C; with --json one object a line
    #[arg(short, long, conflicts_with = "number")]
    pub follow: bool,
}

/// A kind of job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum JobKind {
    /// A session that writes a restore point
    #[value(alias = "backup")]
    Ingest,
    /// Restore points are removed
    Forget,
    /// Layers are merged
    Merge,
    /// Restore points are verified
    Verify,
    /// Disks or files are restored
    Restore,
    /// Restore points are copied to another repository
    Copy,
    /// The catalog is rebuilt
    RebuildCatalog,
    /// The trash is emptied
    EmptyTrash,
}

/// Arguments of `cancel`.
#[derive(Debug, Args)]
#[command(
    after_help = "It ends within a second or two, and leaves nothing half done: a backup makes no point, a merge leaves all as it was.\n\
                  Without a daemon only the command itself can be stopped: Ctrl-C, or SIGTERM."
)]
pub struct Cancel {
    /// The id that `jobs` shows, or 4 or more of its first characters
    #[arg(value_name = "JOB", required = true)]
    pub jobs: Vec<String>,
}

/// Arguments of `ls`.
#[derive(Debug, Args)]
pub struct Ls {
    /// Nothing, a VM, a point, or a path below a point
    #[arg(value_name = "VM[@POINT][:/PATH]")]
    pub target: Option<OsString>,
}

/// Arguments of `info`.
#[derive(Debug, Args)]
#[command(
    after_help = "\"workers\" names what keeps the readers of guests' filesystems from the rest of this machine, and what its kernel lacks for that."
)]
pub struct Info {
    /// The restore point; without one, the repository
    #[arg(value_name = "VM@POINT")]
    pub point: Option<String>,
}

/// Arguments of `volumes`.
#[derive(Debug, Args)]
pub struct Volumes {
    /// The restore point
    #[arg(value_name = "VM@POINT")]
    pub point: String,
}

/// Arguments of `restore`.
#[derive(Debug, Args)]
pub struct Restore {
    /// The restore point, or a path below it
    #[arg(value_name = "VM@POINT[:/PATH]")]
    pub from: OsString,
    /// The disk
    #[arg(value_name = "DISK")]
    pub disk: Option<String>,
    /// A new file, a block device or an NBD URI; with --changed-only also a file that is there
    #[arg(value_name = "TARGET", value_hint = ValueHint::AnyPath)]
    pub target: Option<OsString>,
    /// Directory for all disks and attached files, or for the files at PATH; for these also an archive (.tar, .tar.zst, .zip), or -
    #[arg(long, value_name = "DIR|ARCHIVE|-", value_hint = ValueHint::AnyPath, conflicts_with = "disk")]
    pub to: Option<PathBuf>,
    /// How the files at PATH are written; by default what the extension says. A tar has device nodes and setuid bits as they are, also
    /// without --special: extracting them is the receiver's decision
    #[arg(long, value_name = "FORMAT", requires = "to")]
    pub format: Option<FilesFormat>,
    /// Overwrite a file, or a block device that is in use
    #[arg(long)]
    pub force: bool,
    /// Compare the target, a raw file or a device that is there, with the restore point by hashes, and write only what differs
    #[arg(long, requires = "target")]
    pub changed_only: bool,
    /// In a directory, also make device nodes, setuid bits, and extended attributes other than users' own and ACLs
    #[arg(long)]
    pub special: bool,
    /// Leave out files' extended attributes of this name (security.selinux, btrfs.*; * and ? as in a shell)
    #[arg(long, value_name = "PATTERN")]
    pub exclude_xattr: Vec<String>,
    /// Take only files' extended attributes of this name, whatever they give; without it user.* and ACLs
    #[arg(long, value_name = "PATTERN")]
    pub include_xattr: Vec<String>,
    /// Threads
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
}

/// How files of a guest are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FilesFormat {
    /// A directory
    Dir,
    /// tar, with ACLs, extended attributes and holes
    #[value(name = "tar")]
    Tar,
    /// tar, compressed by zstd
    #[value(name = "tar.zst", alias = "tzst")]
    TarZstd,
    /// zip: modes, times and symlinks
    Zip,
}

/// Arguments of `mount`.
#[derive(Debug, Args)]
pub struct Mount {
    /// The mountpoint
    #[arg(value_name = "MOUNTPOINT", value_hint = ValueHint::DirPath, required_unless_present = "config")]
    pub mountpoint: Option<PathBuf>,
    /// Mount what this configuration names, for the daemons that serve it (root)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with_all = ["mountpoint", "options", "foreground", "nbd"])]
    pub config: Option<PathBuf>,
    /// Options as mount(8) takes them: vm=PATTERN,allow_other,uid=,gid=,umask=,exec,noxattr,passthrough,symlinks=rebase,nonempty,
    /// poll=SECONDS
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub options: Vec<String>,
    /// Serve the restore points that the mount shows over NBD as well, on this Unix socket, read-only, as VM/POINT/DISK
    #[arg(long, value_name = "SOCKET", value_hint = ValueHint::FilePath)]
    pub nbd: Option<PathBuf>,
    /// Close NBD connections without a request for this time (90s, 30m, 6h, 2d)
    #[arg(long, value_name = "TIME", default_value = "24h", requires = "nbd")]
    pub nbd_idle: String,
    /// Stay in the foreground
    #[arg(short, long)]
    pub foreground: bool,
}

/// Arguments of `umount`.
#[derive(Debug, Args)]
pub struct Umount {
    /// Unmount although the mount is in use: it ends as soon as its users have ended
    #[arg(short = 'z', long)]
    pub lazy: bool,
    /// Unmount what this configuration names, and every dead mount of its repositories (root)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "mountpoint")]
    pub config: Option<PathBuf>,
    /// The mountpoint
    #[arg(value_name = "MOUNTPOINT", value_hint = ValueHint::DirPath, required_unless_present = "config")]
    pub mountpoint: Option<PathBuf>,
}

/// The default directory for scratch files of mapped disks: one that is not in memory.
pub const DEFAULT_SCRATCH: &str = "/var/tmp";

/// Arguments of `map`.
#[derive(Debug, Args)]
#[command(
    after_help = "Prints the device, or with all disks DISK and DEVICE in a line each. Only root can, and where udev runs only with its rule for mapped devices (55-restorefs-map.rules); docs/restore.md has ways without."
)]
pub struct Map {
    /// The restore point, and one of its disks; without one, all of them; with nothing: list what is mapped
    #[arg(value_name = "VM@POINT[/DISK]")]
    pub target: Option<String>,
    /// Devices that can be written: what is written goes to a file in this directory (/var/tmp), and is thrown away at the end
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = DEFAULT_SCRATCH, value_hint = ValueHint::DirPath)]
    pub scratch: Option<PathBuf>,
    /// Make a device of each partition, too
    #[arg(long)]
    pub partitions: bool,
    /// Do not go to the background
    #[arg(long, hide = true, requires = "target")]
    pub foreground: bool,
    /// The id of the map
    #[arg(long, hide = true, requires = "foreground")]
    pub id: Option<String>,
}

/// Arguments of `unmap`.
#[derive(Debug, Args)]
pub struct Unmap {
    /// Devices, or what was mapped: a point or a disk of it
    #[arg(value_name = "DEVICE|VM@POINT[/DISK]", conflicts_with_all = ["all", "stale"])]
    pub targets: Vec<String>,
    /// Detach everything
    #[arg(long)]
    pub all: bool,
    /// Detach what processes that have died left behind
    #[arg(long)]
    pub stale: bool,
}

/// Arguments of `serve`.
#[derive(Debug, Args)]
pub struct Serve {
    /// Serve what this file configures (usually /etc/restorefs/config.toml); it is read again on SIGHUP
    #[arg(
        long,
        value_name = "FILE",
        value_hint = ValueHint::FilePath,
        conflicts_with_all = [
            "mount", "options", "nbd", "low_water", "nbd_idle", "nbd_listen", "tls_certificates", "nbd_access", "nbd_plain", "access", "audit", "http", "http_socket", "http_host", "stop_timeout"
        ]
    )]
    pub config: Option<PathBuf>,
    /// Leave what the file wants mounted to `restorefs mount --config`: for a daemon that may not mount
    #[arg(long, requires = "config")]
    pub no_mount: bool,
    /// Mount the tree here
    #[arg(long, value_name = "MOUNTPOINT", value_hint = ValueHint::DirPath)]
    pub mount: Option<PathBuf>,
    /// Options of the mount, as of `restorefs mount`, and: ro (sessions are shown, and written through NBD only), allow_forget (rmdir
    /// removes a restore point)
    #[arg(short = 'o', value_name = "OPTIONS")]
    pub options: Vec<String>,
    /// Serve NBD on this Unix socket
    #[arg(long, value_name = "SOCKET", value_hint = ValueHint::FilePath)]
    pub nbd: Option<PathBuf>,
    /// Begin no session when less than this would stay free; by default 2 % of the filesystem, at most 1G
    #[arg(long, value_name = "SIZE")]
    pub low_water: Option<String>,
    /// Close NBD connections that only read, without a request for this time (90s, 30m, 6h, 2d)
    #[arg(long, value_name = "TIME", default_value = "1h")]
    pub nbd_idle: String,
    /// Serve NBD on this address and port as well, with TLS
    #[arg(long, value_name = "ADDR:PORT")]
    pub nbd_listen: Option<SocketAddr>,
    /// Serve the web pages, the API and the metrics at this address (127.0.0.1:8420): HTTP on a loopback address, else HTTPS, which needs
    /// --tls-certificates
    #[arg(long, value_name = "ADDRESS")]
    pub http: Option<SocketAddr>,
    /// Serve the same on this Unix socket
    #[arg(long, value_name = "SOCKET", value_hint = ValueHint::FilePath)]
    pub http_socket: Vec<PathBuf>,
    /// A name by which browsers call the server, beside its addresses
    #[arg(long, value_name = "NAME", requires = "http")]
    pub http_host: Vec<String>,
    /// Certificates for TLS: server-cert.pem, server-key.pem, and ca-cert.pem for clients' certificates
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub tls_certificates: Option<PathBuf>,
    /// Who may use which VMs over TLS, in place of --access (TOML: docs/access.md)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "tls_certificates")]
    pub nbd_access: Option<PathBuf>,
    /// Listen on a loopback address without TLS: every user of this machine may read
    #[arg(long, requires = "nbd_listen", conflicts_with_all = ["tls_certificates", "nbd_access"])]
    pub nbd_plain: bool,
    /// Who may do what: certificates, users, groups, tokens (TOML: docs/access.md); by default /etc/restorefs/access.toml, for users
    /// other than root and restorefs ~/.config/restorefs/access.toml, as soon as it is there
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub access: Option<PathBuf>,
    /// Append who did what to this file, one JSON object a line
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub audit: Option<PathBuf>,
    /// After SIGTERM, let writers go on for this time; then their sessions are suspended, and the next daemon continues them
    #[arg(long, value_name = "TIME", default_value = "10s")]
    pub stop_timeout: String,
}

/// Arguments of `hold`.
#[derive(Debug, Args)]
#[command(
    after_help = "While COMMAND runs, no layer is replaced, no restore point is forgotten, and the trash keeps what it has: \
                  who asks for that is refused, with exit code 11. Under a daemon backups go on; a point that is committed \
                  meanwhile may be in the copy without its layers until the next run (docs/backup.md has an order that avoids \
                  that). Without a daemon the repository's lock is held, so nobody else can write. Leave out /cache, /trash and \
                  /lock. The exit code is COMMAND's; 1 when the hold ended before COMMAND did (the daemon was stopped, the lock \
                  was lost): the copy is not to be used then. COMMAND receives SIGINT, SIGTERM and SIGHUP."
)]
pub struct Hold {
    /// The command and its arguments
    #[arg(value_name = "COMMAND", last = true, required = true)]
    pub command: Vec<OsString>,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 all is well; 3 damage is known (a layer is missing, verifying has found damage, a sidecar cannot be \
                  read); 4 a policy is not met, or, with --max-age, the last point of a VM is older, or a VM has none. 3 wins \
                  over 4. The first line is the verdict. Nothing is verified: see restorefs verify. docs/monitoring.md has checks for Nagios and timers."
)]
pub struct Status {
    /// Exit with 4 when a VM's last restore point is older than this (26h, 90m, 2d)
    #[arg(long, value_name = "AGE")]
    pub max_age: Option<String>,
    /// Ask the repositories that have copies whether they have them; exit with 4 when one is gone
    #[arg(long)]
    pub check: bool,
}

/// Arguments of `check-config`.
#[derive(Debug, Args)]
pub struct CheckConfig {
    /// The file
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath, default_value = "/etc/restorefs/config.toml")]
    pub file: PathBuf,
}

/// Arguments of `quickstart`.
#[derive(Debug, Args)]
pub struct Quickstart {
    /// A new directory for repository, sample disks and mountpoint
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub dir: PathBuf,
    /// Serve the pages of the repository at this address, too, and print a login
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, default_missing_value = "127.0.0.1:8420")]
    pub http: Option<SocketAddr>,
}

/// Arguments of `openapi`.
#[derive(Debug, Args)]
#[command(after_help = "A daemon serves the same at /api/v1/openapi.json.")]
pub struct Openapi {}

/// Arguments of `rebuild-catalog`.
#[derive(Debug, Args)]
#[command(after_help = "A daemon rebuilds it for root and for its own user only.")]
pub struct RebuildCatalog {}

/// Arguments of `complete-names`.
#[derive(Debug, Args)]
pub struct CompleteNames {
    /// The word so far
    #[arg(value_name = "WORD", allow_hyphen_values = true)]
    pub word: OsString,
    /// The words before it
    #[arg(value_name = "WORDS", last = true, allow_hyphen_values = true)]
    pub line: Vec<OsString>,
}
