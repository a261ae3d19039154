//! Listening sockets of a daemon. A stale Unix socket is replaced, a live one never; a TCP socket without protection is for this host
//! only. Also identifies the peer of a connection.
#![expect(unsafe_code, reason = "SO_PEERGROUPS has no safe wrapper")]

use std::io::ErrorKind as IoKind;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::error::{Error, ErrorKind, Result, ResultExt};

/// LIMIT: bytes of a socket's path (`sun_path` of unix(7), without its zero byte).
pub const PATH_BYTES_MAX: usize = 107;

/// `SO_PEERGROUPS` of `asm-generic/socket.h`.
const SO_PEERGROUPS: libc::c_int = 59;

/// LIMIT: groups of a peer that are read (`NGROUPS_MAX` of Linux).
const GROUPS_MAX: usize = 65_536;

/// Pause between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(20);

/// The file of a listening socket. Dropping this removes the file, unless a process listens there; so drop
/// the listener first.
///
/// The check connects to the socket, because nothing else distinguishes two sockets of one name: inode
/// numbers are reused at once.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    is_ours: bool,
}

impl SocketFile {
    /// The file of a socket that another process has made and keeps.
    #[must_use]
    pub fn of_another(path: &Path) -> Self {
        Self {
            path: path.to_path_buf(),
            is_ours: false,
        }
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The group that owns the file now.
    ///
    /// # Errors
    /// `NotFound`, `Io`.
    pub fn group(&self) -> Result<u32> {
        std::fs::symlink_metadata(&self.path)
            .map(|meta| meta.gid())
            .or_io("cannot look at the socket")
            .at_path(&self.path)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_ours {
            // A file that cannot be removed is stale at the next start, and then replaced.
            let _ = remove_stale(&self.path);
        }
    }
}

/// Listens at `path` with permissions `mode`.
///
/// # Errors
/// `NameTooLong` beyond [`PATH_BYTES_MAX`]; `Busy` when a process listens there; `AlreadyExists` when another
/// kind of file has the name; `NotFound`, `PermissionDenied`, `Io`.
pub fn listen(path: &Path, mode: u32) -> Result<(UnixListener, SocketFile)> {
    let length = path.as_os_str().as_bytes().len();
    if length > PATH_BYTES_MAX {
        return Err(Error::new(
            ErrorKind::NameTooLong,
            format!("the socket's path has {length} bytes, {PATH_BYTES_MAX} are possible"),
        )
        .at_path(path)
        .advise("choose a shorter one"));
    }
    remove_stale(path)?;
    let listener = UnixListener::bind(path)
        .or_io("cannot listen")
        .at_path(path)?;
    set_mode(path, mode)
        .or_io("cannot set the socket's permissions")
        .at_path(path)?;
    let file = SocketFile {
        path: path.to_path_buf(),
        is_ours: true,
    };
    Ok((listener, file))
}

/// Whether what a TCP socket carries is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protection {
    /// By TLS.
    Tls,
    /// By nothing: any process on this host may connect.
    Loopback,
}

/// Listens on a TCP address.
///
/// # Errors
/// `Io` when another process listens there, or the address is not of this host.
pub fn listen_tcp(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address)
        .or_io("cannot listen")
        .at_path(address.to_string())
}

/// Makes a listener ready for an asynchronous server of a protocol, and returns its address.
///
/// # Errors
/// `InvalidInput` for an address that can be reached from elsewhere, without protection; `Io`.
pub fn prepare_tcp(
    listener: &TcpListener,
    protection: Protection,
    protocol: &str,
) -> Result<SocketAddr> {
    let address = listener.local_addr().or_io("a socket has no address")?;
    if protection == Protection::Loopback && !address.ip().is_loopback() {
        return Err(
            Error::invalid(format!("{address} can be reached from elsewhere")).advise(format!(
                "{protocol} without TLS is for loopback addresses (127.0.0.1, [::1]) only"
            )),
        );
    }
    listener
        .set_nonblocking(true)
        .or_io("cannot listen")
        .at_path(address.to_string())?;
    Ok(address)
}

/// Sets the permissions of the socket at a path, through a descriptor: in a directory that others can write,
/// another file may have the name by now, and a symlink could lead anywhere.
fn set_mode(path: &Path, mode: u32) -> std::io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let held = rustix::fs::open(path, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&held)?;
    let is_socket = FileType::from_raw_mode(stat.st_mode) == FileType::Socket;
    if !is_socket || stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(std::io::Error::other("another process replaced the socket"));
    }
    let place = format!("/proc/self/fd/{}", held.as_raw_fd());
    std::fs::set_permissions(place, std::fs::Permissions::from_mode(mode))
}

/// Connects to a socket and waits at most `patience`, even for a listener that never accepts (connect(2)
/// would wait for ever).
///
/// # Errors
/// As connect(2): `WouldBlock` when the listener's queue is full.
pub fn connect(path: &Path, patience: Duration) -> std::io::Result<UnixStream> {
    let until = Instant::now() + patience;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let address = SocketAddrUnix::new(path)?;
    loop {
        match rustix::net::connect(&socket, &address) {
            Ok(()) => break,
            Err(Errno::AGAIN) if Instant::now() < until => std::thread::sleep(PAUSE),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

fn remove_stale(path: &Path) -> Result<()> {
    let meta = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == IoKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io("cannot look at the socket", e).at_path(path)),
    };
    if !meta.file_type().is_socket() {
        return Err(Error::new(
            ErrorKind::AlreadyExists,
            "something that is no socket has its name",
        )
        .at_path(path));
    }
    let busy = || {
        Error::new(
            ErrorKind::Busy,
            "another process listens on the socket already",
        )
        .at_path(path)
        .advise("stop that process (ss -xlp shows it), or choose another socket")
    };
    match connect(path, Duration::ZERO) {
        Ok(_) => Err(busy()),
        Err(e) if e.kind() == IoKind::WouldBlock => Err(busy()),
        Err(e) if e.kind() == IoKind::ConnectionRefused => std::fs::remove_file(path)
            .or_io("cannot remove the stale socket")
            .at_path(path),
        Err(e) if e.kind() == IoKind::NotFound => Ok(()),
        Err(e) => Err(
            Error::io("cannot tell whether a process listens on the socket", e)
                .at_path(path)
                .advise("see whose it is (ls -l, ss -xlp); remove it, or choose another socket"),
        ),
    }
}

/// The process at the other end and its user. For a listening socket, as they were when it began to listen.
///
/// # Errors
/// `Io`.
pub fn peer(stream: impl AsFd) -> Result<(rustix::process::Pid, u32)> {
    let peer = rustix::net::sockopt::socket_peercred(stream)
        .map_err(|e| Error::io("cannot read the credentials of the peer", e.into()))?;
    Ok((peer.pid, peer.uid.as_raw()))
}

/// The user at the other end, and its groups: the process's own one, then the supplementary ones, as they were when it connected.
/// A kernel that does not tell the supplementary groups (before Linux 4.13) leaves the first one.
///
/// # Errors
/// `Io`.
pub fn peer_with_groups(stream: impl AsFd) -> Result<(u32, Vec<u32>)> {
    let peer = rustix::net::sockopt::socket_peercred(&stream)
        .map_err(|e| Error::io("cannot read the credentials of the peer", e.into()))?;
    let mut groups = vec![peer.gid.as_raw()];
    groups.extend(peer_groups(&stream).unwrap_or_default());
    Ok((peer.uid.as_raw(), groups))
}

/// The supplementary groups of the process at the other end, as they were when it connected.
///
/// # Errors
/// `Unsupported` before Linux 4.13, `Io`.
pub fn peer_groups(stream: impl AsFd) -> Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let bytes = std::mem::size_of_val(groups.as_slice());
        let mut length = libc::socklen_t::try_from(bytes).unwrap_or(libc::socklen_t::MAX);
        // SAFETY: the descriptor is open for the whole call, and `length` is the size in bytes of the buffer
        // behind the pointer. The kernel writes at most that many bytes, and any value is valid for the
        // elements.
        let result = unsafe {
            libc::getsockopt(
                stream.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let error = std::io::Error::last_os_error();
        let count = usize::try_from(length).unwrap_or(usize::MAX) / size_of::<libc::gid_t>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        if error.raw_os_error() == Some(libc::ERANGE) && count > groups.len() && count <= GROUPS_MAX
        {
            groups.resize(count, 0);
            continue;
        }
        return Err(Error::io("cannot ask for the peer's groups", error));
    }
}

#[cfg(test)]
mod tests {
    use super::{
        AddressFamily, Duration, Instant, Path, SocketAddrUnix, SocketType, connect, listen,
        peer_groups,
    };
    use crate::error::ErrorKind;
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn a_stale_socket_is_replaced_a_living_one_and_a_file_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        let (listener, file) = listen(&path, 0o660).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        assert_eq!(listen(&path, 0o660).unwrap_err().kind(), ErrorKind::Busy);
        drop(listener);
        let (second, other) = listen(&path, 0o660).unwrap();
        drop(file);
        assert!(
            path.exists(),
            "the first one's end must not take the second one's name"
        );
        drop((second, other));
        assert!(!path.exists());
        std::fs::write(&path, "x").unwrap();
        assert_eq!(
            listen(&path, 0o660).unwrap_err().kind(),
            ErrorKind::AlreadyExists
        );
        let long = dir.path().join("x".repeat(107));
        let error = listen(&long, 0o660).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NameTooLong);
        assert!(error.to_string().contains("107"), "{error}");
    }

    /// An attacker with write permission on the directory replaces the socket between bind and chmod.
    #[test]
    fn permissions_go_to_a_socket_of_ours_and_to_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (path, secret) = (dir.path().join("s"), dir.path().join("secret"));
        std::fs::write(&secret, "x").unwrap();
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink(&secret, &path).unwrap();
        assert!(super::set_mode(&path, 0o666).is_err());
        assert!(super::set_mode(&secret, 0o666).is_err());
        let mode = std::fs::metadata(&secret).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    /// An attacker listens under a daemon's name and never accepts.
    #[test]
    fn who_listens_and_never_accepts_holds_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let socket = one_who_never_accepts(&path);
        let mut waiting = Vec::new();
        let begun = Instant::now();
        let error = loop {
            match connect(&path, Duration::ZERO) {
                Ok(stream) => waiting.push(stream),
                Err(error) => break error,
            }
            assert!(waiting.len() < 100);
        };
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
        assert_eq!(listen(&path, 0o660).unwrap_err().kind(), ErrorKind::Busy);
        let error = connect(&path, Duration::from_millis(100)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
        assert!(begun.elapsed() >= Duration::from_millis(100));
        drop(socket);
    }

    fn one_who_never_accepts(path: &Path) -> OwnedFd {
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
        rustix::net::listen(&socket, 1).unwrap();
        socket
    }

    #[test]
    fn our_own_groups_are_the_peers() {
        let (a, _b) = UnixStream::pair().unwrap();
        let mut found = peer_groups(&a).unwrap();
        let mut own: Vec<u32> = rustix::process::getgroups()
            .unwrap()
            .into_iter()
            .map(rustix::process::Gid::as_raw)
            .collect();
        found.sort_unstable();
        own.sort_unstable();
        assert_eq!(found, own);
    }
}
