//! The disks of a machine, as its monitor shows them.

use serde_json::{Value, json};

use crate::capture::machine::LeftOut;
use crate::capture::monitor::Monitor;
use crate::capture::monitor::sweep::device_path;
use crate::error::{Error, ErrorKind, Result};
use crate::types::DiskName;

/// LIMIT: characters of a disk's name (DESIGN: of all names).
const NAME_CHARS_MAX: usize = 128;

/// Device models with removable media.
const REMOVABLE: [&str; 5] = ["ide-cd", "scsi-cd", "floppy", "isa-fdc", "floppy-drive"];

/// A disk of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Device {
    /// The name that people know it by.
    pub(super) name: DiskName,
    /// Its serial.
    pub(super) serial: Option<String>,
    /// Its path in QEMU's object tree.
    pub(super) path: String,
    /// The block node that it reads and writes.
    pub(super) node: String,
    /// The driver of that node.
    pub(super) driver: String,
    /// Size in bytes.
    pub(super) size_bytes: u64,
    /// Bytes that its image occupies.
    pub(super) data_bytes: Option<u64>,
    /// Whether the guest cannot write it.
    pub(super) is_read_only: bool,
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// The part of a device's path by which people know it: its id, or its number.
fn short(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// A disk's name from what the machine calls it.
fn disk_name(machine: &str) -> Result<DiskName> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let plain: String = machine
        .chars()
        .map(|c| if is_plain(c) { c } else { '-' })
        .take(NAME_CHARS_MAX)
        .collect();
    let plain = plain.trim_start_matches(|c: char| !c.is_ascii_alphanumeric());
    let plain = plain.trim_end_matches(['.', '-']).replace("..", ".-");
    DiskName::new(plain).map_err(|e| {
        e.advise(format!(
            "give the device {machine} an id in QEMU's arguments"
        ))
    })
}

/// The value of a property of a device; `Null` if it has none.
fn property(monitor: &mut dyn Monitor, path: &str, name: &str) -> Result<Value> {
    match monitor.execute("qom-get", json!({"path": path, "property": name})) {
        Err(e) if matches!(e.kind(), ErrorKind::InvalidInput | ErrorKind::NotFound) => {
            Ok(Value::Null)
        }
        value => value,
    }
}

/// Why a device is in no backup.
fn reason(
    monitor: &mut dyn Monitor,
    path: &str,
    block: &Value,
    inserted: &Value,
) -> Result<Option<String>> {
    let model = property(monitor, path, "type")?;
    let model = model.as_str().unwrap_or_default();
    if REMOVABLE.contains(&model) {
        return Ok(Some(format!("it is a removable medium ({model})")));
    }
    if property(monitor, path, "share-rw")? == true {
        return Ok(Some("other machines write it, too (share-rw)".to_owned()));
    }
    // With snapshot=on QEMU opens a temporary overlay, which has no name any more.
    let file = text(inserted, "file");
    if file.contains("/var/tmp/vl.") || file.contains("/tmp/vl.") {
        return Ok(Some(
            "what is written to it is thrown away at the end (snapshot=on)".to_owned(),
        ));
    }
    Ok((block["removable"] == true && inserted["ro"] == true)
        .then(|| "it is a removable medium".to_owned()))
}

/// The disks of the machine, and what else it has.
///
/// # Errors
/// Those of the monitor; `InvalidInput` for a disk without a usable name, and for two of one name.
pub(super) fn list(monitor: &mut dyn Monitor) -> Result<(Vec<Device>, Vec<LeftOut>)> {
    let blocks = monitor.execute("query-block", json!({}))?;
    let (mut devices, mut left_out): (Vec<Device>, Vec<LeftOut>) = (Vec::new(), Vec::new());
    for block in blocks.as_array().into_iter().flatten() {
        let (qdev, Some(inserted)) = (text(block, "qdev"), block.get("inserted")) else {
            continue;
        };
        let backend = text(block, "device");
        let path = device_path(qdev);
        let known_as = match (qdev, backend) {
            ("", "") => continue,
            (_, backend) if path.contains("/machine/peripheral-anon/") && !backend.is_empty() => {
                backend
            }
            ("", backend) => backend,
            _ => short(&path),
        };
        if qdev.is_empty() {
            let reason = "no device of the machine uses it".to_owned();
            left_out.push(LeftOut {
                name: known_as.to_owned(),
                reason,
            });
            continue;
        }
        if let Some(reason) = reason(monitor, &path, block, inserted)? {
            left_out.push(LeftOut {
                name: known_as.to_owned(),
                reason,
            });
            continue;
        }
        let name = disk_name(known_as)?;
        let size_bytes = inserted["image"]["virtual-size"]
            .as_u64()
            .filter(|size| *size > 0);
        let Some(size_bytes) = size_bytes else {
            let reason = "it is empty".to_owned();
            left_out.push(LeftOut {
                name: known_as.to_owned(),
                reason,
            });
            continue;
        };
        if let Some(other) = devices.iter().find(|other| other.name.same_as(&name)) {
            return Err(Error::invalid(format!(
                "the devices {} and {path} are both called {name}",
                other.path
            ))
            .advise("give each an id of its own in QEMU's arguments"));
        }
        let serial = property(monitor, &path, "serial")?;
        let serial = serial
            .as_str()
            .map(str::trim)
            .filter(|serial| !serial.is_empty());
        devices.push(Device {
            name,
            serial: serial.map(ToOwned::to_owned),
            path,
            node: text(inserted, "node-name").to_owned(),
            driver: text(inserted, "drv").to_owned(),
            size_bytes,
            data_bytes: inserted["image"]["actual-size"].as_u64(),
            is_read_only: inserted["ro"] == true,
        });
    }
    // What two disks have in common identifies neither.
    let serials: Vec<Option<String>> = devices.iter().map(|one| one.serial.clone()).collect();
    for device in &mut devices {
        let same = serials.iter().filter(|other| **other == device.serial);
        if device.serial.is_some() && same.count() > 1 {
            device.serial = None;
        }
    }
    if devices.is_empty() {
        return Err(Error::invalid(
            "the machine has no disk that could be backed up",
        ));
    }
    Ok((devices, left_out))
}

#[cfg(test)]
mod tests {
    use super::disk_name;

    #[test]
    fn devices_have_names_that_the_tree_can_show() {
        for (machine, name) in [
            ("d0", "d0"),
            ("scsi0-0-0-0", "scsi0-0-0-0"),
            ("device[1]", "device-1"),
            ("#block123", "block123"),
            ("a..b", "a.-b"),
        ] {
            assert_eq!(disk_name(machine).unwrap().as_str(), name);
        }
        assert!(disk_name("//").is_err());
    }
}
