//! The arguments of `verify` and `check`. Only definitions, as in `args`.

use clap::{Args, ValueEnum};

/// Of which points harmed files are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum HarmedFiles {
    /// Of the newest damaged point of each VM
    Newest,
    /// Of each damaged point
    All,
    /// Of none
    None,
}

/// Arguments of `verify`.
#[derive(Debug, Args)]
#[command(
    after_help = "Each layer is read once, however many points need it. Of a subset, parts that wait for longest come first; N/M also reads what was never verified, so that 1/7 to 7/7 on seven days cover everything. Exit code 3: something is damaged. docs/verify.md has examples."
)]
pub struct Verify {
    /// VMs, by name or by pattern (web*; * and ? as in a shell); all when left out
    #[arg(value_name = "VM")]
    pub vms: Vec<String>,
    /// Verify a part: a share (1/7), a percentage of the bytes (10%), or that many bytes (10G)
    #[arg(long, value_name = "N/M|N%|SIZE", allow_hyphen_values = true)]
    pub subset: Option<String>,
    /// Verify only what was not verified for that long (12h, 30d)
    #[arg(long, value_name = "AGE")]
    pub outdated_after: Option<String>,
    /// Of which damaged points the harmed files are named
    #[arg(long, value_enum, default_value_t = HarmedFiles::Newest)]
    pub files: HarmedFiles,
    /// Read at most this much in a second (100M)
    #[arg(long, value_name = "SIZE")]
    pub limit: Option<String>,
}

/// Arguments of `check`.
#[derive(Debug, Args)]
pub struct Check {
    /// VMs, by name or by pattern (web*; * and ? as in a shell); all when left out
    #[arg(value_name = "VM")]
    pub vms: Vec<String>,
}

/// Arguments of `repair`.
#[derive(Debug, Args)]
#[command(
    after_help = "Reads every layer that the points need. Damaged clusters come from copies (--from), else from other restore points of the VM; what is taken has the hash that was committed. Ends with a verification of what was repaired. Exit code 3: something is still damaged; it is named with the guest's files. docs/copies.md has examples."
)]
pub struct Repair {
    /// A VM, or one of its restore points: VM@POINT, VM@latest
    #[arg(value_name = "VM|VM@POINT")]
    pub target: String,
    /// A repository that has a copy of the VM, by name or directory; may be repeated
    #[arg(long, value_name = "NAME|DIR")]
    pub from: Vec<std::path::PathBuf>,
    /// Of which points that stay damaged the harmed files are named
    #[arg(long, value_enum, default_value_t = HarmedFiles::Newest)]
    pub files: HarmedFiles,
    /// Read and write at most this much in a second (100M)
    #[arg(long, value_name = "SIZE")]
    pub limit: Option<String>,
}
