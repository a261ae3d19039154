//! QEMU's NBD server. A QEMU has only one: where it runs for somebody else, it is used, and found by the sockets on which QEMU listens.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;

use crate::capture::monitor::Monitor;
use crate::error::{Error, ErrorKind, Result, ResultExt};
use crate::nbd::proto::uri::Uri;
use crate::sys::private_dir::PrivateDir;
use crate::sys::socket;

/// LIMIT: time within which an NBD server greets.
const GREETING_TIMEOUT: Duration = Duration::from_millis(500);

/// LIMIT: listening sockets of QEMU that are looked at.
const SOCKETS_MAX: usize = 64;

/// The first bytes of an NBD server (NBD `doc/proto.md`, Newstyle negotiation).
const GREETING: &[u8; 8] = b"NBDMAGIC";

/// QEMU's NBD server.
pub(super) struct Server {
    at: At,
    /// The directory of our socket.
    _directory: PrivateDir,
}

enum At {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl Server {
    /// Starts the server on a socket that only this user can reach, or uses the one that runs. `pid` is QEMU's process.
    ///
    /// # Errors
    /// `Busy` when a server runs whose address cannot be found; those of the monitor.
    pub(super) fn start(monitor: &mut dyn Monitor, prefix: &str, pid: Option<u32>) -> Result<Self> {
        let directory = PrivateDir::new()?;
        let mut server = Self {
            at: At::Unix(directory.path().join("nbd")),
            _directory: directory,
        };
        let is_running =
            |e: &Error| e.kind() == ErrorKind::InvalidInput && e.what().contains("already running");
        match server.listen(monitor, prefix) {
            Err(e) if is_running(&e) => {}
            done => return done.map(|()| server),
        }
        let sockets = pid.map(sockets_of).unwrap_or_default();
        if stop_left_over(monitor, &sockets)? {
            return server.listen(monitor, prefix).map(|()| server);
        }
        server.at = sockets.into_iter().find(greets).ok_or_else(|| {
            Error::new(ErrorKind::Busy, "QEMU's NBD server, of which there is one only, runs for somebody else, and its address is not found")
                .advise("let this command run as root or as QEMU's user, or stop that server (QMP: nbd-server-stop)")
        })?;
        Ok(server)
    }

    fn listen(&self, monitor: &mut dyn Monitor, prefix: &str) -> Result<()> {
        let At::Unix(path) = &self.at else {
            return Ok(());
        };
        let listener = UnixListener::bind(path)
            .or_io("cannot make a socket")
            .at_path(path)?;
        let name = format!("{prefix}nbd");
        monitor.execute_with("getfd", json!({"fdname": name}), Some(listener.as_fd()))?;
        let address = json!({"type": "fd", "data": {"str": name}});
        let started = monitor.execute("nbd-server-start", json!({"addr": address}));
        if started.is_err() {
            // QEMU closes a descriptor that it has taken.
            let _ = monitor.execute("closefd", json!({"fdname": name}));
        }
        started.map(drop)
    }

    /// The URI of an export.
    ///
    /// # Errors
    /// `InvalidInput`.
    pub(super) fn uri(&self, export: &str) -> Result<Uri> {
        match &self.at {
            At::Unix(path) => Ok(Uri::unix(path, export)),
            At::Tcp(address) => format!("nbd://{address}/{export}").parse(),
        }
    }
}

/// Stops a server that a killed backup left: it listens on a socket of ours, and exports nothing. Returns whether it did.
///
/// # Errors
/// Those of the monitor.
fn stop_left_over(monitor: &mut dyn Monitor, sockets: &[At]) -> Result<bool> {
    let ours = sockets.iter().find_map(|at| match at {
        At::Unix(path) => PrivateDir::of(path),
        At::Tcp(_) => None,
    });
    let Some(directory) = ours else {
        return Ok(false);
    };
    let exports = monitor.execute("query-block-exports", json!({}))?;
    if exports.as_array().is_none_or(|all| !all.is_empty()) {
        return Ok(false);
    }
    tracing::warn!(path = %directory.path().display(), "an earlier backup was killed; the NBD server that it left in QEMU is stopped");
    monitor.execute("nbd-server-stop", json!({}))?;
    Ok(true)
}

/// The listening sockets of a process.
fn sockets_of(pid: u32) -> Vec<At> {
    let inodes = inodes_of(pid).unwrap_or_default();
    let unix = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let unix = listening_unix(&unix, &inodes).into_iter().map(At::Unix);
    let mut tcp = Vec::new();
    for table in ["tcp", "tcp6"] {
        let text = std::fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
        tcp.extend(listening_tcp(&text, &inodes));
    }
    unix.chain(tcp.into_iter().map(At::Tcp))
        .take(SOCKETS_MAX)
        .collect()
}

fn greets(at: &At) -> bool {
    let mut greeting = [0; 8];
    let read = match at {
        At::Unix(path) => socket::connect(path, GREETING_TIMEOUT).and_then(|mut stream| {
            stream.set_read_timeout(Some(GREETING_TIMEOUT))?;
            stream.read_exact(&mut greeting)
        }),
        At::Tcp(address) => {
            TcpStream::connect_timeout(address, GREETING_TIMEOUT).and_then(|mut stream| {
                stream.set_read_timeout(Some(GREETING_TIMEOUT))?;
                stream.read_exact(&mut greeting)
            })
        }
    };
    read.is_ok() && greeting == *GREETING
}

/// Inodes of the sockets that a process has open.
fn inodes_of(pid: u32) -> Option<BTreeSet<u64>> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let links = entries
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let inode = |link: PathBuf| {
        let text = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
        text.parse().ok()
    };
    Some(links.filter_map(inode).collect())
}

/// Paths of listening sockets of `/proc/net/unix` (`Num RefCount Protocol Flags Type St Inode Path`).
fn listening_unix(table: &str, inodes: &BTreeSet<u64>) -> Vec<PathBuf> {
    const ACCEPTS: u64 = 0x10000;
    let path = |line: &str| {
        let mut fields = line.split_whitespace();
        let flags = u64::from_str_radix(fields.nth(3)?, 16).ok()?;
        let inode: u64 = fields.nth(2)?.parse().ok()?;
        let path = fields.next()?;
        let is_ours = flags & ACCEPTS != 0 && inodes.contains(&inode) && path.starts_with('/');
        is_ours.then(|| Path::new(path).to_owned())
    };
    table.lines().skip(1).filter_map(path).collect()
}

/// Addresses of listening sockets of `/proc/net/tcp` and `tcp6` (`sl local_address rem_address st ... uid timeout inode`).
fn listening_tcp(table: &str, inodes: &BTreeSet<u64>) -> Vec<SocketAddr> {
    const LISTENS: &str = "0A";
    let address = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let inode: u64 = fields.get(9)?.parse().ok()?;
        if fields.get(3) != Some(&LISTENS) || !inodes.contains(&inode) {
            return None;
        }
        let (host, port) = fields.get(1)?.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        // The kernel prints words of the machine's byte order; on all addresses this machine answers at its loopback one.
        let is_any = host.bytes().all(|digit| digit == b'0');
        let is_loopback = host == "0100007F";
        match (host.len(), is_any || is_loopback) {
            (8, true) => Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
            (32, _) if is_any => Some(SocketAddr::from((Ipv6Addr::LOCALHOST, port))),
            (8, false) => {
                let word = u32::from_str_radix(host, 16).ok()?;
                let bytes = match cfg!(target_endian = "little") {
                    true => word.to_le_bytes(),
                    false => word.to_be_bytes(),
                };
                Some(SocketAddr::from((Ipv4Addr::from(bytes), port)))
            }
            _ => None,
        }
    };
    table.lines().skip(1).filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::{listening_tcp, listening_unix};

    #[test]
    fn listening_sockets_are_found_by_their_inodes() {
        let unix = "Num RefCount Protocol Flags Type St Inode Path\n\
            ffff: 00000002 00000000 00010000 0001 01 101 /run/nbd.sock\n\
            ffff: 00000003 00000000 00000000 0001 03 102 /run/connected\n\
            ffff: 00000002 00000000 00010000 0001 01 103 @abstract\n\
            ffff: 00000002 00000000 00010000 0001 01 999 /run/other\nnonsense\n";
        let ours = [101, 102, 103].into_iter().collect();
        assert_eq!(
            listening_unix(unix, &ours),
            [std::path::PathBuf::from("/run/nbd.sock")]
        );
        let tcp = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:2A39 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 101 1 0\n\
            1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 5 1 0\n\
            2: 0100007F:2A39 0100007F:1234 01 00000000:00000000 00:00000000 00000000     0        0 102 1 0\n";
        assert_eq!(
            listening_tcp(tcp, &ours),
            ["127.0.0.1:10809".parse().unwrap()]
        );
    }
}
