//! `restorefs sessions`: lists the open sessions, with or without a daemon.

use super::context::Context;
use crate::control::Client;
use crate::error::Result;
use crate::service::{Service, SessionAnswer};
use crate::types::size::Human;

pub(super) fn run(context: &Context) -> Result<()> {
    let repository = context.repository()?;
    let mut sessions: Vec<SessionAnswer> = match Client::connect(&repository)? {
        Some(client) => client.sessions()?,
        None => Vec::new(),
    };
    for vm in repository.vm_names()? {
        for name in repository.session_names(&vm)? {
            if !sessions.iter().any(|s| s.vm == vm && s.session == name)
                && let Ok(sidecar) = repository.session(&vm, &name)
            {
                sessions.push(SessionAnswer::of_sidecar(sidecar));
            }
        }
    }
    if context.output.json {
        return context.output.json(&sessions);
    }
    let rows: Vec<Vec<String>> = sessions
        .iter()
        .map(|session| {
            let disks: Vec<String> = session
                .disks
                .iter()
                .map(|disk| {
                    let door = disk.door.as_deref().unwrap_or("not written yet");
                    let state = if disk.finished { ", finished" } else { "" };
                    format!("{} ({door}{state}) {}", disk.name, Human(disk.stored_bytes))
                })
                .collect();
            vec![
                format!("{}/{}", session.vm, session.session),
                if session.live { "open" } else { "suspended" }.to_owned(),
                session
                    .captured_at
                    .strftime("%Y-%m-%d %H:%M:%S")
                    .to_string(),
                session
                    .parent
                    .as_ref()
                    .map_or_else(|| "-".to_owned(), ToString::to_string),
                session
                    .idle_seconds
                    .map_or_else(|| "-".to_owned(), duration),
                disks.join(", "),
                session.last_error.clone().unwrap_or_default(),
            ]
        })
        .collect();
    context.output.table(
        &[
            "SESSION",
            "STATE",
            "BEGAN",
            "PARENT",
            "IDLE",
            "STORED",
            "LAST ERROR",
        ],
        &[],
        &rows,
    )
}

/// Seconds in a readable form: `59s`, `3m`, `2h`, `4d`.
fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..86_400 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}
