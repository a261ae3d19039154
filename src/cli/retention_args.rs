//! The arguments of retention: what is forgotten, kept and merged. Only definitions, as in `args`.

use clap::Args;

/// Arguments of `forget`.
#[derive(Debug, Args)]
#[command(
    after_help = "A point stays when one rule keeps it. Each rule keeps the newest point of each of its last N periods; periods without points do not count. Points that are kept by hand, tagged by --keep-tag, in use, or captured in the future stay, too. docs/retention.md has examples."
)]
pub struct Forget {
    /// VMs, by name or by pattern (web*; * and ? as in a shell), or single restore points
    #[arg(value_name = "VM|VM@POINT", required = true)]
    pub vms: Vec<String>,
    /// Forget every point of the VMs, which are then named in full
    #[arg(long)]
    pub all: bool,
    /// Merge every layer that no point needs by itself, whatever that costs; without rules nothing is forgotten
    #[arg(long, conflicts_with = "no_merge")]
    pub compact: bool,
    /// Leave merging for later: points are forgotten, and most of their space stays taken
    #[arg(long)]
    pub no_merge: bool,
    /// Copy at most this much in a second while merging (100M)
    #[arg(long, value_name = "SIZE")]
    pub limit: Option<String>,
    /// Show what would be forgotten, and why, and change nothing
    #[arg(short = 'n', long, conflicts_with = "compact")]
    pub dry_run: bool,
    /// For timers: leave a VM alone, with exit code 4, when more than half of what the last run has kept would go
    #[arg(long)]
    pub unattended: bool,
    /// Which points stay
    #[command(flatten)]
    pub keep: Keep,
}

/// Rules of retention.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Rules")]
pub struct Keep {
    /// The N newest points
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub keep_last: Option<String>,
    /// The newest point of each of the last N hours
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub keep_hourly: Option<String>,
    /// The newest point of each of the last N days
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub keep_daily: Option<String>,
    /// The newest point of each of the last N weeks (ISO 8601); the oldest point, too, until there are so many
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub keep_weekly: Option<String>,
    /// The newest point of each of the last N months; the oldest point, too, until there are so many
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub keep_monthly: Option<String>,
    /// The newest point of each of the last N years; the oldest point, too, until there are so many
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub keep_yearly: Option<String>,
    /// All points that are younger than this (1y6m, 14d, 2d12h: years, months, days, hours), counted back from the newest point
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub keep_within: Option<String>,
    /// The newest point of each hour, of the points that are younger
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub keep_within_hourly: Option<String>,
    /// The newest point of each day, of the points that are younger
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub keep_within_daily: Option<String>,
    /// The newest point of each week, of the points that are younger
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub keep_within_weekly: Option<String>,
    /// The newest point of each month, of the points that are younger
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub keep_within_monthly: Option<String>,
    /// The newest point of each year, of the points that are younger
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub keep_within_yearly: Option<String>,
    /// All points with this tag, whatever its value or with this one
    #[arg(long, value_name = "KEY[=VALUE]")]
    pub keep_tag: Vec<String>,
    /// Time zone of hours, days, weeks, months and years (Europe/Berlin); by default UTC
    #[arg(long, value_name = "ZONE", visible_alias = "zone")]
    pub time_zone: Option<String>,
}

/// Arguments of `tag`.
#[derive(Debug, Args)]
pub struct Tag {
    /// The restore point
    #[arg(value_name = "VM@POINT")]
    pub point: String,
    /// Tags to add or to change; without any, the tags are shown
    #[arg(value_name = "KEY=VALUE")]
    pub tags: Vec<String>,
    /// Remove this tag
    #[arg(long, value_name = "KEY")]
    pub remove: Vec<String>,
}

/// Arguments of `keep`.
#[derive(Debug, Args)]
pub struct KeepPoint {
    /// The restore point
    #[arg(value_name = "VM@POINT")]
    pub point: String,
    /// Let rules forget it again
    #[arg(long)]
    pub remove: bool,
}

/// Arguments of `trash`.
#[derive(Debug, Args)]
#[command(
    after_help = "What was removed stays in the trash for an hour or more; then the daemon, or the next command that writes, deletes it. Until then readers that still need it find it there."
)]
pub struct Trash {
    /// Delete all of it now
    #[arg(long)]
    pub empty: bool,
}

/// Arguments of `undelete`.
#[derive(Debug, Args)]
#[command(
    after_help = "A forgotten point comes back with its layers and tags, as long as the trash has them: an hour, or until it is emptied. So does a VM that was removed, with that point."
)]
pub struct Undelete {
    /// The restore point, by the name that it had
    #[arg(value_name = "VM@POINT")]
    pub point: String,
}

/// Arguments of `rename`.
#[derive(Debug, Args)]
#[command(
    after_help = "Refused while the VM has an open session or a restore point is in use. Mounts and NBD exports show the new name; scripts and policies that name the VM do not follow."
)]
pub struct Rename {
    /// The VM
    pub vm: String,
    /// Its new name
    #[arg(value_name = "NEW-NAME")]
    pub to: String,
}

/// Arguments of `remove`.
#[derive(Debug, Args)]
#[command(
    after_help = "All restore points are forgotten, also those that are kept by hand, then the VM is removed. Refused while it has an open session; a point in use keeps it. For an hour, restorefs undelete VM@POINT brings back what the trash still has."
)]
pub struct Remove {
    /// The VM
    pub vm: String,
}

/// Arguments of `synthetic-full`.
#[derive(Debug, Args)]
#[command(
    after_help = "The point keeps its content; its layers need no others then. Layers below that other points need stay."
)]
pub struct SyntheticFull {
    /// The restore point
    #[arg(value_name = "VM@POINT")]
    pub point: String,
    /// A disk, once or several times; all disks if left out
    #[arg(long, value_name = "DISK")]
    pub disk: Vec<String>,
    /// Copy at most this much in a second (100M)
    #[arg(long, value_name = "SIZE")]
    pub limit: Option<String>,
}
