//! `restorefs cancel`: asks tasks of the daemon to stop.

use serde_json::json;

use super::args::Cancel;
use super::context::Context;
use super::output::Output;
use crate::control::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::service::Service;
use crate::task::{TaskKind, TaskReport};
use crate::types::JobId;

/// LIMIT: characters of the shortest prefix that names a task; fewer fit one by chance.
const PREFIX_CHARS_MIN: usize = 4;

/// Characters of an id in tables.
const SHORT_CHARS: usize = 8;

/// An id as it stands in tables.
pub(super) fn short_id(id: JobId) -> String {
    id.to_string().chars().take(SHORT_CHARS).collect()
}

pub(super) fn run(context: &Context, args: &Cancel) -> Result<()> {
    let prefixes = args.jobs.iter().map(|text| Prefix::parse(text));
    let prefixes = prefixes.collect::<Result<Vec<_>>>()?;
    let repository = context.repository()?;
    let client = Client::connect(&repository)?.ok_or_else(|| {
        Error::not_found(
            "no daemon serves this repository, so that nobody can stop another command",
        )
        .advise("stop the command itself (Ctrl-C, or SIGTERM); restorefs jobs shows what has ended")
    })?;
    // A name that fits nothing, or too much, keeps the command from stopping anything.
    let tasks = client.tasks()?;
    let mut found: Vec<&TaskReport> = Vec::new();
    for prefix in &prefixes {
        let task = prefix.find(&tasks)?;
        if !found.iter().any(|one| one.id == task.id) {
            found.push(task);
        }
    }
    let mut cancelled = Vec::new();
    let mut failed = None;
    for task in found {
        match client.cancel(task.id) {
            Ok(()) => {
                if !context.output.json {
                    context.output.outcome(said(task))?;
                }
                cancelled.push(task);
            }
            Err(e) => {
                if let Some(before) = failed.replace(e) {
                    Output::error("restorefs", &before);
                }
            }
        }
    }
    if context.output.json {
        let all: Vec<_> = cancelled
            .iter()
            .map(
                |task| json!({"job_id": task.id, "kind": task.subject.kind, "vm": task.subject.vm}),
            )
            .collect();
        context.output.json(&all)?;
    }
    failed.map_or(Ok(()), Err)
}

fn said(task: &TaskReport) -> String {
    let id = short_id(task.id);
    let of_vm = task.subject.vm.as_ref();
    let of_vm = of_vm.map_or_else(String::new, |vm| format!(" of {vm}"));
    match task.subject.kind {
        TaskKind::Backup => format!("{id}: the backup{of_vm} is aborted"),
        kind => format!("{id}: the {}{of_vm} is asked to stop", kind.as_str()),
    }
}

/// The beginning of a task's id.
struct Prefix(String);

impl Prefix {
    fn parse(text: &str) -> Result<Self> {
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        let is_id = digits.chars().all(|c| c.is_ascii_hexdigit());
        if !is_id || digits.len() < PREFIX_CHARS_MIN {
            return Err(Error::invalid(format!(
                "\"{}\" is not the id of a job, nor {PREFIX_CHARS_MIN} or more of its first characters",
                text.escape_debug()
            ))
            .advise("restorefs jobs shows the ids"));
        }
        Ok(Self(digits.to_lowercase()))
    }

    fn fits(&self, id: JobId) -> bool {
        id.to_string().replace('-', "").starts_with(&self.0)
    }

    /// The running task that it names.
    fn find<'a>(&self, tasks: &'a [TaskReport]) -> Result<&'a TaskReport> {
        let mut fitting = tasks.iter().filter(|task| self.fits(task.id));
        let is_running = |task: &&TaskReport| !task.state.is_end();
        let running: Vec<_> = fitting.clone().filter(is_running).collect();
        match (running.as_slice(), fitting.next()) {
            ([one], _) => Ok(one),
            ([], Some(ended)) => Err(Error::not_found(format!(
                "the {} {} has ended already",
                ended.subject.kind.as_str(),
                short_id(ended.id)
            ))
            .advise("restorefs jobs shows how")),
            ([], None) => Err(Error::not_found(format!("no task {} is running", self.0)).advise(
                "restorefs jobs shows the ids of the running ones; a command that the daemon does not know is stopped by Ctrl-C",
            )),
            (some, _) => {
                let ids: Vec<String> = some.iter().map(|task| task.id.to_string()).collect();
                Err(Error::new(
                    ErrorKind::InvalidInput,
                    format!("{} fits several tasks: {}", self.0, ids.join(", ")),
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Prefix, short_id};
    use crate::error::ErrorKind;
    use crate::task::{TaskKind, TaskReport, TaskState, TaskSubject};
    use crate::types::JobId;
    use jiff::Timestamp;

    fn task(first: u8, second: u8, state: TaskState) -> TaskReport {
        let mut bytes = [7; 16];
        (bytes[0], bytes[1], bytes[4]) = (first, first, second);
        TaskReport {
            id: JobId::from_bytes(bytes),
            subject: TaskSubject {
                kind: TaskKind::Merge,
                vm: None,
                session: None,
                point: None,
            },
            state,
            reason: None,
            began_at: Timestamp::UNIX_EPOCH,
            ended_at: None,
            disks: Vec::new(),
            cancellable: true,
        }
    }

    #[test]
    fn a_prefix_names_one_running_task() {
        let running = TaskState::Running;
        let tasks = [
            task(0xab, 1, running),
            task(0xab, 2, running),
            task(0xcd, 1, running),
            task(0xcd, 2, TaskState::Completed),
            task(0xef, 1, TaskState::Failed),
        ];
        let find = |text: &str| Prefix::parse(text)?.find(&tasks).map(|task| task.id);
        assert_eq!(find("cdcd").unwrap(), tasks[2].id);
        assert_eq!(
            find(&short_id(tasks[2].id).to_uppercase()).unwrap(),
            tasks[2].id
        );
        assert_eq!(find("abab0707-02").unwrap(), tasks[1].id);
        assert_eq!(find(&tasks[0].id.to_string()).unwrap(), tasks[0].id);
        let refused = |text: &str| find(text).unwrap_err();
        let several = refused("abab");
        assert_eq!(several.kind(), ErrorKind::InvalidInput);
        assert!(
            several.what().contains(&tasks[1].id.to_string()),
            "{several}"
        );
        let ended = refused("efef");
        assert_eq!(ended.kind(), ErrorKind::NotFound);
        assert!(ended.what().contains("ended already"), "{ended}");
        assert_eq!(refused("1234").kind(), ErrorKind::NotFound);
        for text in ["", "abc", "a-b-c", "web01", "abcd/", "äbcd"] {
            assert_eq!(refused(text).kind(), ErrorKind::InvalidInput, "{text}");
        }
    }
}
