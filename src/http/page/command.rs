//! Commands to copy, for what is done at a shell.

use maud::{Markup, html};

use crate::nbd::proto::uri::Uri;
use crate::service::Status;
use crate::types::{DiskName, PointName, VmName};

/// A command with what it is for.
struct Command {
    purpose: String,
    line: String,
}

/// A path as a shell reads it: in quotes where it has more than letters, digits and the signs of plain paths.
fn quoted(path: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_');
    match path.chars().all(is_plain) && !path.is_empty() {
        true => path.to_owned(),
        false => format!("'{}'", path.replace('\'', "'\\''")),
    }
}

fn commands(
    status: Option<&Status>,
    vm: &VmName,
    point: &PointName,
    disks: &[DiskName],
) -> Vec<Command> {
    let root = status.map(|status| status.repository.display().to_string());
    let program = match root.filter(|root| !root.is_empty()) {
        Some(root) => format!("restorefs -r {}", quoted(&root)),
        None => "restorefs".to_owned(),
    };
    let mut all = vec![
        Command {
            purpose: "Mount the repository, as files".to_owned(),
            line: format!("{program} mount /mnt/backups"),
        },
        Command {
            purpose: "Restore all disks into a directory".to_owned(),
            line: format!("{program} restore {vm}@{point} --to {vm}-{point}"),
        },
        Command {
            purpose: "Restore a directory of the guest".to_owned(),
            line: format!("{program} restore {vm}@{point}:/files/etc --to etc"),
        },
        Command {
            purpose: "Map the disks as block devices".to_owned(),
            line: format!("{program} map {vm}@{point}"),
        },
    ];
    for disk in disks {
        all.push(Command {
            purpose: format!("Restore {disk} as an image"),
            line: format!("{program} restore {vm}@{point} {disk} {disk}.raw"),
        });
    }
    let export = |disk: &DiskName| format!("{vm}/{point}/{disk}");
    for disk in disks {
        let socket = status.and_then(|status| status.nbd_sockets.first());
        if let Some(socket) = socket {
            let uri = Uri::unix(socket, export(disk)).to_string();
            all.push(Command {
                purpose: format!("NBD of {disk}, on this server"),
                line: quoted(&uri),
            });
        }
        if let Some(tcp) = status.and_then(|status| status.nbd_tcp.as_deref()) {
            let uri = format!("{}/{}", tcp.trim_end_matches('/'), export(disk));
            all.push(Command {
                purpose: format!("NBD of {disk}, by network"),
                line: uri,
            });
        }
    }
    all
}

/// The commands of a restore point; the script adds buttons that copy them.
pub(super) fn show(
    status: Option<&Status>,
    vm: &VmName,
    point: &PointName,
    disks: &[DiskName],
) -> Markup {
    html! {
        dl.commands {
            @for command in commands(status, vm, point, disks) {
                div {
                    dt { (command.purpose) }
                    dd data-copy="" { code tabindex="0" { (command.line) } }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{commands, quoted};
    use crate::service::Status;
    use crate::types::{DiskName, PointName, VmName};

    #[test]
    fn each_command_can_be_pasted() {
        assert_eq!(quoted("/srv/repo"), "/srv/repo");
        assert_eq!(quoted("/srv/it's; rm"), "'/srv/it'\\''s; rm'");
        let status = Status {
            pid: 1,
            version: String::new(),
            nbd_sockets: vec!["/run/its nbd.sock".into()],
            nbd_tcp: Some("nbds://backup01:10809/".to_owned()),
            mountpoint: None,
            mounts: Vec::new(),
            repository: "/srv/a b".into(),
        };
        let (vm, point) = (
            VmName::new("web01").unwrap(),
            PointName::new("monday").unwrap(),
        );
        let all = commands(Some(&status), &vm, &point, &[DiskName::new("vda").unwrap()]);
        let lines: Vec<&str> = all.iter().map(|command| command.line.as_str()).collect();
        assert_eq!(
            lines,
            [
                "restorefs -r '/srv/a b' mount /mnt/backups",
                "restorefs -r '/srv/a b' restore web01@monday --to web01-monday",
                "restorefs -r '/srv/a b' restore web01@monday:/files/etc --to etc",
                "restorefs -r '/srv/a b' map web01@monday",
                "restorefs -r '/srv/a b' restore web01@monday vda vda.raw",
                "'nbd+unix:///web01/monday/vda?socket=/run/its%20nbd.sock'",
                "nbds://backup01:10809/web01/monday/vda",
            ]
        );
    }
}
