//! `restorefs check-config`: checks whether a daemon could serve a configuration file.

use super::args::CheckConfig;
use super::context::Context;
use super::serve::load;
use crate::daemon::config;
use crate::error::{Result, ResultExt};

pub(super) fn run(context: &Context, args: &CheckConfig) -> Result<()> {
    let (config, _) = load(context, &args.file)?;
    config::check(&config).at_path(&args.file)?;
    if context.output.json {
        let repositories: Vec<_> = config
            .repositories
            .iter()
            .map(|repository| {
                let mounts: Vec<_> = repository.mounts.iter().map(|mount| &mount.at).collect();
                serde_json::json!({
                    "path": repository.path,
                    "mounts": mounts,
                    "nbd_sockets": repository.nbd.sockets,
                    "nbd_listen": repository.nbd.tcp.as_ref().map(|tcp| tcp.address.to_string()),
                })
            })
            .collect();
        return context.output.json(&serde_json::json!({
            "file": args.file,
            "repositories": repositories,
        }));
    }
    for repository in &config.repositories {
        context
            .output
            .remark(format!("serves {}", repository.path.display()));
    }
    let mounts = config.repositories.iter().flat_map(|one| &one.mounts);
    for (at, warning) in mounts.filter_map(|mount| Some((&mount.at, mount.options.exposure()?))) {
        context
            .output
            .warn(format!("the mount at {}: {warning}", at.display()));
    }
    if let Some(remark) = config::crawler::remark()
        && config.repositories.iter().any(|one| !one.mounts.is_empty())
    {
        context.output.remark(remark);
    }
    context.output.remark("the configuration is good");
    Ok(())
}
