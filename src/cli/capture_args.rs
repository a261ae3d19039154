//! Arguments of `backup` about machines that run.

use std::path::PathBuf;

use clap::{Args, ValueHint};

/// Flags about a machine that runs.
#[derive(Debug, Args)]
pub struct CaptureFlags {
    /// Back up the disks of a libvirt domain, running or shut off
    #[arg(long, value_name = "DOMAIN", conflicts_with_all = ["disks", "qmp", "pull"])]
    pub libvirt: Option<String>,
    /// The hypervisor to which --libvirt connects; by default qemu:///system
    #[arg(long, value_name = "URI", requires = "libvirt")]
    pub connect: Option<String>,
    /// Back up the disks of a plain QEMU by its monitor (-qmp unix:PATH,server=on,wait=off)
    #[arg(long, value_name = "SOCKET", value_hint = ValueHint::FilePath, conflicts_with_all = ["disks", "pull"])]
    pub qmp: Option<PathBuf>,
    /// The socket of the guest agent of that QEMU
    #[arg(long, value_name = "SOCKET", value_hint = ValueHint::FilePath, requires = "qmp")]
    pub guest_agent: Option<PathBuf>,
    /// Let the guest agent freeze the filesystems for the instant of the backup
    #[arg(long)]
    pub quiesce: bool,
    /// A disk whose content is an NBD export; whether all are of one instant is not known
    #[arg(long, value_name = "DISK=URI", conflicts_with = "disks")]
    pub pull: Vec<String>,
    /// Copy only what this dirty bitmap of the export calls changed; it counts only if its name is the parent's change id
    #[arg(long, value_name = "DISK=NAME", requires = "pull")]
    pub bitmap: Vec<String>,
    /// How a snapshot of a QEMU is taken; by default its best way
    #[arg(long, value_name = "WAY", value_enum, requires = "qmp")]
    pub method: Option<Method>,
    /// Directory for what the guest overwrites during the copy; by default /var/tmp
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub scratch: Option<PathBuf>,
    /// Compare this share of what a bitmap calls unchanged all the same (1%)
    #[arg(long, value_name = "SHARE")]
    pub verify_sample: Option<String>,
    /// Choose the same clusters for --verify-sample again
    #[arg(long, value_name = "NUMBER", requires = "verify_sample")]
    pub seed: Option<u64>,
    /// Read at most this much in a second (100M)
    #[arg(long, value_name = "SIZE")]
    pub limit: Option<String>,
    /// Back up to a repository of another machine, whose daemon serves HTTP there; --repo is its name there
    #[arg(long, value_name = "URL", conflicts_with = "low_water")]
    pub server: Option<String>,
    /// A file with the token for that server, made there by restorefs token add
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "server")]
    pub token_file: Option<PathBuf>,
    /// Directory with ca-cert.pem, client-cert.pem and client-key.pem for that server; by default libnbd's
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, requires = "server")]
    pub tls_dir: Option<PathBuf>,
    /// Show what would be copied, from which bitmap, and how much; change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// A way to take a snapshot of a QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Method {
    /// A filter that gives the snapshot up when it cannot keep what the guest overwrites
    CopyBeforeWrite,
    /// A job, whose scratch file has all its room from the beginning
    BlockdevBackup,
}
