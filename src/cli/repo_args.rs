//! The arguments of `repo` and its actions. Only definitions, as in `args`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

/// Arguments of `repo`.
#[derive(Debug, Args)]
#[command(
    after_help = "A name is used wherever a directory is: restorefs -r NAME ls. What it names is opened only when its directory holds the \
                  repository that was named, so nothing is written below a mountpoint whose filesystem is not mounted (exit code 10). \
                  A word with a / or a dot in front is a directory. Names are kept in /etc/restorefs/repositories.toml by root, \
                  in ~/.config/restorefs/repositories.toml by others."
)]
pub struct Repo {
    /// What to do
    #[command(subcommand)]
    pub action: RepoAction,
}

/// What `repo` does.
#[derive(Debug, Subcommand)]
pub enum RepoAction {
    /// Name a repository
    Add(RepoAdd),
    /// List the named repositories, and what can be seen of them
    List(RepoList),
    /// Forget a name; the repository stays as it is
    Remove(RepoRemove),
    /// Give a repository that is a copy an id of its own
    NewId(RepoNewId),
    /// Try what a directory can do for a repository, and how fast it is
    Test(RepoTest),
}

/// Arguments of `repo add`.
#[derive(Debug, Args)]
pub struct RepoAdd {
    /// The name
    #[arg(value_name = "NAME")]
    pub name: String,
    /// The directory of the repository, which must be there
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub dir: PathBuf,
    /// What it lies on: disk, nas, tape, cloud, or another word
    #[arg(long, value_name = "WORD")]
    pub media: Option<String>,
    /// It lies in another place than what it backs up
    #[arg(long)]
    pub offsite: bool,
}

/// Arguments of `repo list`.
#[derive(Debug, Args)]
pub struct RepoList {}

/// Arguments of `repo remove`.
#[derive(Debug, Args)]
pub struct RepoRemove {
    /// The name
    #[arg(value_name = "NAME")]
    pub name: String,
}

/// Arguments of `repo new-id`.
#[derive(Debug, Args)]
#[command(
    after_help = "Two repositories with one id are taken for one: repo list and check warn of them. Give the new id to the copy, while no \
                  daemon serves it. Its names get the new id, too. Mounts and mapped disks that are there go on."
)]
pub struct RepoNewId {
    /// The directory of the repository, or its name; that of --repo if left out
    #[arg(value_name = "DIR|NAME", value_hint = ValueHint::DirPath)]
    pub repository: Option<PathBuf>,
}

/// Arguments of `repo test`.
#[derive(Debug, Args)]
#[command(
    after_help = "The directory need not be a repository. Files are made in it, and none is left. Exit code 1: no repository can be there."
)]
pub struct RepoTest {
    /// The directory, or the name of a repository; that of --repo if left out
    #[arg(value_name = "DIR|NAME", value_hint = ValueHint::DirPath)]
    pub place: Option<PathBuf>,
    /// Measure no speed, which takes four seconds and up to 4 GiB or a tenth of the free space
    #[arg(long)]
    pub quick: bool,
}
