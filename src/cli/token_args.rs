//! The arguments of `token` and its actions. Only definitions, as in `args`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

/// Arguments of `token`.
#[derive(Debug, Args)]
#[command(
    after_help = "A token is shown once, by the command that makes it; the file has only its hash. A daemon that runs follows the file: a new token \
                  counts at once, and so does its end. The file is /etc/restorefs/access.toml for root and the user restorefs, for others \
                  ~/.config/restorefs/access.toml; $RESTOREFS_ACCESS names another one. docs/access.md has all that can be in it."
)]
pub struct Token {
    /// What to do
    #[command(subcommand)]
    pub action: TokenAction,
}

/// What `token` does.
#[derive(Debug, Subcommand)]
pub enum TokenAction {
    /// Make a token and show it
    Add(TokenAdd),
    /// List the tokens
    List(TokenList),
    /// End a token
    Revoke(TokenRevoke),
    /// Make a login to the web pages of the daemon, which works once
    Login,
}

/// Arguments of `token add`.
#[derive(Debug, Args)]
pub struct TokenAdd {
    /// Its name, for lists and logs
    #[arg(value_name = "NAME")]
    pub name: String,
    /// What it may do: read, restore, ingest, manage, admin, metrics; none implies another
    #[arg(long, value_name = "RIGHT", value_delimiter = ',', required = true)]
    pub rights: Vec<String>,
    /// VMs on which it may do so (web01, 'web*'; '*' for all)
    #[arg(long, value_name = "PATTERN", required = true)]
    pub vms: Vec<String>,
    /// Only in the repository of this name ("default": one without a name); without it, in all
    #[arg(long, value_name = "NAME")]
    pub repository: Vec<String>,
    /// It ends after this time (12h, 90d)
    #[arg(long, value_name = "TIME")]
    pub expires: Option<String>,
    /// The file of the access table
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub access: Option<PathBuf>,
}

/// Arguments of `token list`.
#[derive(Debug, Args)]
pub struct TokenList {
    /// The file of the access table
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub access: Option<PathBuf>,
}

/// Arguments of `token revoke`.
#[derive(Debug, Args)]
pub struct TokenRevoke {
    /// Its name
    #[arg(value_name = "NAME")]
    pub name: String,
    /// The file of the access table
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub access: Option<PathBuf>,
}
