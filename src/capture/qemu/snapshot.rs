//! The snapshot of a disk: nodes that keep what the guest overwrites, by either way of [`Way`].

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::device::Device;
use super::schema::Way;
use crate::capture::monitor::Monitor;
use crate::capture::room;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::sys::scratch;
use crate::types::printable::printable;

/// LIMIT: seconds for which a write of the guest waits for the copy of what it overwrites; then the snapshot is given up.
const COPY_SECONDS_MAX: u64 = 30;

/// LIMIT: time for making an empty image.
const CREATE_TIMEOUT: Duration = Duration::from_secs(60);

/// The nodes of one disk's snapshot.
pub(super) struct Snapshot {
    /// The node that clients read.
    pub(super) view: String,
    filter: Option<String>,
    job: Option<Job>,
    /// The scratch file, which has no name.
    scratch: Option<File>,
}

struct Job {
    id: String,
    target: String,
}

impl Snapshot {
    /// Makes the nodes, by the names that `name` gives. The guest does not notice.
    ///
    /// # Errors
    /// `NoSpace` where a full scratch file has no room; those of the monitor.
    pub(super) fn prepare(
        monitor: &mut dyn Monitor,
        way: Way,
        name: impl Fn(&str) -> String,
        device: &Device,
        directory: &Path,
    ) -> Result<Self> {
        if device.is_read_only {
            return Ok(Self {
                view: device.node.clone(),
                filter: None,
                job: None,
                scratch: None,
            });
        }
        let file = scratch::file(directory)?;
        let set = monitor.execute_with(
            "add-fd",
            json!({"opaque": name("scratch")}),
            Some(file.as_fd()),
        )?;
        let set = set["fdset-id"].as_u64().ok_or_else(|| {
            Error::new(
                ErrorKind::Disconnected,
                "QEMU does not report the number of a set of descriptors",
            )
        })?;
        let plain = name("file");
        if way == Way::Filter {
            file.set_len(device.size_bytes)
                .or_io("cannot size a scratch file")
                .at_path(directory)?;
        }
        monitor.execute(
            "blockdev-add",
            json!({"driver": "file", "node-name": plain,
            "filename": format!("/dev/fdset/{set}"), "discard": "unmap"}),
        )?;
        match way {
            Way::Filter => {
                let (filter, view) = (name("filter"), name("view"));
                monitor.execute("blockdev-add", json!({"driver": "copy-before-write", "node-name": filter, "discard": "unmap",
                    "file": device.node, "target": plain, "on-cbw-error": "break-snapshot", "cbw-timeout": COPY_SECONDS_MAX}))?;
                Ok(Self {
                    view,
                    filter: Some(filter),
                    job: None,
                    scratch: Some(file),
                })
            }
            Way::Job => {
                let target = name("scratch");
                create(monitor, &name("create"), &plain, device.size_bytes)?;
                room::take(&file, device.size_bytes, &device.name).at_path(directory)?;
                monitor.execute(
                    "blockdev-add",
                    json!({"driver": "qcow2", "node-name": target, "file": plain,
                    "backing": device.node}),
                )?;
                let job = Job {
                    id: name("job"),
                    target: target.clone(),
                };
                Ok(Self {
                    view: target,
                    filter: None,
                    job: Some(job),
                    scratch: Some(file),
                })
            }
        }
    }

    /// Puts the filter between the guest and its disk: the snapshot is of this moment.
    ///
    /// # Errors
    /// Those of the monitor.
    pub(super) fn insert(&self, monitor: &mut dyn Monitor, device: &Device) -> Result<()> {
        let Some(filter) = &self.filter else {
            return Ok(());
        };
        let value = json!({"path": device.path, "property": "drive", "value": filter});
        monitor.execute("qom-set", value).map(drop)
    }

    /// Makes the view of what the filter keeps. While it is there, the guest's disk must stay behind the filter.
    ///
    /// # Errors
    /// Those of the monitor.
    pub(super) fn open_view(&self, monitor: &mut dyn Monitor) -> Result<()> {
        let Some(filter) = &self.filter else {
            return Ok(());
        };
        let view = json!({"driver": "snapshot-access", "node-name": self.view, "file": filter});
        monitor.execute("blockdev-add", view).map(drop)
    }

    /// The action of a transaction by which the snapshot begins.
    pub(super) fn action(&self, device: &Device) -> Option<Value> {
        let job = self.job.as_ref()?;
        Some(
            json!({"type": "blockdev-backup", "data": {"job-id": job.id, "device": device.node, "target": job.target,
            "sync": "none", "filter-node-name": format!("{}f", job.id), "on-source-error": "report", "on-target-error": "report"}}),
        )
    }

    /// Frees the space of the scratch file, once QEMU uses it no more. QEMU closes a descriptor that it was passed only while the guest
    /// runs; the space must not wait for that.
    pub(super) fn free(&self) {
        if let Some(file) = &self.scratch
            && let Err(e) = file.set_len(0)
        {
            tracing::warn!(error = %e, "the space of a scratch file is freed when QEMU closes it");
        }
    }

    /// The job that keeps what is overwritten.
    pub(super) fn job(&self) -> Option<&str> {
        self.job.as_ref().map(|job| job.id.as_str())
    }
}

/// Makes an empty QCOW2 image in a node.
fn create(monitor: &mut dyn Monitor, job: &str, node: &str, size_bytes: u64) -> Result<()> {
    monitor.execute("blockdev-create", json!({"job-id": job, "options":
        {"driver": "qcow2", "file": node, "size": size_bytes, "version": "v3", "cluster-size": 65_536}}))?;
    let begun = Instant::now();
    while begun.elapsed() < CREATE_TIMEOUT {
        let jobs = monitor.execute("query-jobs", json!({}))?;
        let mut jobs = jobs.as_array().into_iter().flatten();
        let ours = jobs.find(|other| other["id"] == job);
        let Some(ours) = ours else {
            return Err(Error::not_found(format!(
                "QEMU does not show the job {job}"
            )));
        };
        if ours["status"] == "concluded" {
            let failure = ours["error"].as_str().map(ToOwned::to_owned);
            monitor.execute("job-dismiss", json!({"id": job}))?;
            return match failure {
                Some(reason) => Err(Error::invalid(format!(
                    "QEMU cannot make a scratch image: {}",
                    printable(&reason)
                ))),
                None => Ok(()),
            };
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(Error::new(
        ErrorKind::TimedOut,
        "QEMU does not make a scratch image",
    ))
}
