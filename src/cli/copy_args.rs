//! The arguments of `copy` and `adopt`. Only definitions, as in `args`.

use std::path::PathBuf;

use clap::{Args, ValueHint};

/// Arguments of `copy`.
#[derive(Debug, Args)]
#[command(
    after_help = "What the target has is not sent again, and an interrupted copy goes on where it was. Every cluster is proved before it \
                  is written. The VM at the target takes no backups until `adopt` makes it one of that repository. Exit code 3: a point \
                  is damaged and was not copied; the others were. docs/copies.md has examples."
)]
pub struct Copy {
    /// VMs, by name or by pattern (web*; * and ? as in a shell)
    #[arg(value_name = "VM", required = true)]
    pub vms: Vec<String>,
    /// The repository that receives: its name or its directory
    #[arg(long, value_name = "REPOSITORY", value_hint = ValueHint::DirPath)]
    pub to: PathBuf,
    /// Name of the VM at the target, where another VM has its name
    #[arg(long = "as", value_name = "NAME")]
    pub name: Option<String>,
    /// Send at most this much in a second (50M)
    #[arg(long, value_name = "SIZE")]
    pub limit: Option<String>,
    /// Copy only this point, once or several times
    #[arg(long, value_name = "POINT")]
    pub point: Vec<String>,
    /// Send points again that the target had, and has forgotten
    #[arg(long)]
    pub again: bool,
    /// Show what would be copied, and copy nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

/// Arguments of `adopt`.
#[derive(Debug, Args)]
#[command(
    after_help = "The points stay as they are. The next backup continues from the newest one. Nothing more is copied into the VM."
)]
pub struct Adopt {
    /// The VM, a copy from another repository
    #[arg(value_name = "VM")]
    pub vm: String,
}
