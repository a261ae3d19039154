//! The arguments of `policy` and its actions. Only definitions, as in `args`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use super::retention::Keep;

/// Arguments of `policy`.
#[derive(Debug, Args)]
#[command(
    after_help = "A policy is kept in the repository. restorefs policy run does what is due; a systemd timer runs it every 15 minutes \
                  (systemctl enable --now restorefs-policy.timer). restorefs status shows whether the policies are met. \
                  docs/policies.md has examples."
)]
pub struct Policy {
    /// What to do
    #[command(subcommand)]
    pub action: PolicyAction,
}

/// What `policy` does.
#[derive(Debug, Subcommand)]
pub enum PolicyAction {
    /// Add a policy
    Add(Box<PolicyAdd>),
    /// Change a policy; what no flag names stays
    Edit(Box<PolicyEdit>),
    /// Show policies in full
    Show(PolicyShow),
    /// List the policies, and when each has its next backup
    List(PolicyList),
    /// Remove a policy; restore points stay
    Remove(PolicyRemove),
    /// Give a VM a policy of its own, which wins over patterns
    Assign(PolicyAssign),
    /// Do what is due: backup, forget, merge, copy, verify
    Run(PolicyRun),
    /// Show or name the machine that runs the policies
    Runner(PolicyRunner),
}

/// What a policy says.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Policy")]
pub struct PolicyTerms {
    /// VMs, by name or by pattern (web*; * and ? as in a shell)
    #[arg(long, value_name = "PATTERN", num_args = 1..)]
    pub vms: Vec<String>,
    /// A backup at each full hour
    #[arg(long, conflicts_with_all = ["daily", "weekly", "every"])]
    pub hourly: bool,
    /// A backup each day at this time
    #[arg(long, value_name = "HH:MM", conflicts_with_all = ["weekly", "every"])]
    pub daily: Option<String>,
    /// A backup each week on this day (mon, tue, wed, thu, fri, sat, sun) at this time
    #[arg(long, value_name = "DAY@HH:MM", conflicts_with = "every")]
    pub weekly: Option<String>,
    /// A backup every so many hours (6h), counted from the beginning of 1970 in UTC
    #[arg(long, value_name = "HOURS")]
    pub every: Option<String>,
    /// Copy restore points to this repository, which has a name; several times for several
    #[arg(long, value_name = "REPOSITORY")]
    pub copy_to: Vec<String>,
    /// Begin to copy this long after the commit (30m, 1h)
    #[arg(long, value_name = "TIME")]
    pub copy_after: Option<String>,
    /// What copies must amount to, with the restore point itself: copies, kinds of media, copies off-site
    #[arg(long, value_name = "N-N-N")]
    pub require: Option<String>,
    /// Verify each restore point this often (30d)
    #[arg(long, value_name = "TIME")]
    pub verify_every: Option<String>,
    /// The last restore point of a VM may be this old (26h)
    #[arg(long, value_name = "TIME")]
    pub rpo: Option<String>,
    /// Merge at any price when a chain has more layers than this; the repository's limit if left out
    #[arg(long, value_name = "N")]
    pub max_depth: Option<u32>,
    /// Which points stay
    #[command(flatten)]
    pub keep: Keep,
    /// The command that backs up one VM, with its arguments, as the last flag: it has RESTOREFS_VM and RESTOREFS_REPO in its environment
    #[arg(long, value_name = "PROGRAM", num_args = 1.., allow_hyphen_values = true, help_heading = "Policy")]
    pub command: Vec<String>,
}

/// Arguments of `policy add`.
#[derive(Debug, Args)]
pub struct PolicyAdd {
    /// The name
    #[arg(value_name = "NAME")]
    pub name: String,
    /// What it says
    #[command(flatten)]
    pub terms: PolicyTerms,
}

/// Arguments of `policy edit`.
#[derive(Debug, Args)]
#[command(
    after_help = "A rule (--keep-...) replaces all rules, --vms all patterns, --copy-to all repositories."
)]
pub struct PolicyEdit {
    /// The policy
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Make no backups
    #[arg(long, conflicts_with_all = ["hourly", "daily", "weekly", "every", "command"])]
    pub no_schedule: bool,
    /// Run no command: something else makes the backups
    #[arg(long, conflicts_with = "command")]
    pub no_command: bool,
    /// Forget nothing
    #[arg(long)]
    pub no_keep: bool,
    /// Copy nothing
    #[arg(long, conflicts_with_all = ["copy_to", "copy_after"])]
    pub no_copy: bool,
    /// Require no number of copies
    #[arg(long, conflicts_with = "require")]
    pub no_require: bool,
    /// Verify nothing
    #[arg(long, conflicts_with = "verify_every")]
    pub no_verify: bool,
    /// Let the last restore point be of any age
    #[arg(long, conflicts_with = "rpo")]
    pub no_rpo: bool,
    /// Take the repository's limit of layers
    #[arg(long, conflicts_with = "max_depth")]
    pub no_max_depth: bool,
    /// What it says
    #[command(flatten)]
    pub terms: PolicyTerms,
}

/// Arguments of `policy show`.
#[derive(Debug, Args)]
pub struct PolicyShow {
    /// The policy; all of them if left out
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
}

/// Arguments of `policy list`.
#[derive(Debug, Args)]
pub struct PolicyList {}

/// Arguments of `policy remove`.
#[derive(Debug, Args)]
pub struct PolicyRemove {
    /// The policy
    #[arg(value_name = "NAME")]
    pub name: String,
}

/// Arguments of `policy assign`.
#[derive(Debug, Args)]
pub struct PolicyAssign {
    /// The VM
    #[arg(value_name = "VM")]
    pub vm: String,
    /// The policy
    #[arg(
        value_name = "NAME",
        required_unless_present = "none",
        conflicts_with = "none"
    )]
    pub policy: Option<String>,
    /// Take it away: patterns decide again
    #[arg(long)]
    pub none: bool,
}

/// Arguments of `policy run`.
#[derive(Debug, Args)]
#[command(
    after_help = "Each action is done whatever became of the others. Exit codes: 0 also when another run is under way, or when another \
                  machine runs the policies; 1 when an action failed: the next run tries it again."
)]
pub struct PolicyRun {
    /// Show what is due, and do nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Run this policy only
    #[arg(long, value_name = "NAME")]
    pub policy: Option<String>,
    /// Run the policies of all repositories of this daemon's configuration
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
}

/// Arguments of `policy runner`.
#[derive(Debug, Args)]
pub struct PolicyRunner {
    /// This machine
    #[arg(long, conflicts_with = "none")]
    pub here: bool,
    /// Any machine on which policy run is started
    #[arg(long)]
    pub none: bool,
}
