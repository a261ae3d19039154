//! Listening sockets that a service manager passes to this process (sd_listen_fds(3)).
#![expect(
    unsafe_code,
    reason = "a descriptor that came by its number has to be taken over"
)]

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::net::{AddressFamily, SocketType, sockopt};

use crate::error::{Error, Result, ResultExt};

/// A listening socket.
#[derive(Debug)]
pub enum Inherited {
    /// A Unix socket with a name in the file system.
    Unix(UnixListener, PathBuf),
    /// A TCP socket.
    Tcp(TcpListener, SocketAddr),
}

impl Inherited {
    /// The path of a Unix socket.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Unix(_, path) => Some(path),
            Self::Tcp(..) => None,
        }
    }

    /// Its name in messages.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Unix(_, path) => path.display().to_string(),
            Self::Tcp(_, address) => address.to_string(),
        }
    }
}

/// A socket and the name that the service manager gives it (`FileDescriptorName=`, systemd.socket(5)).
#[derive(Debug)]
pub struct Named {
    /// The name; that of the unit where nobody chose one, and `unknown` where the manager gives none.
    pub label: String,
    /// The socket.
    pub socket: Inherited,
}

/// Takes the sockets with which this process was started; a second call returns none.
///
/// # Errors
/// `InvalidInput` when one is not a listening socket, or the manager's description is malformed; `Io`.
pub fn take() -> Result<Vec<Named>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    let numbers = sd_notify::listen_fds_with_names()
        .or_io("the sockets of the service manager are not understood")?;
    numbers
        .map(|(number, label)| {
            // SAFETY: the service manager has opened it for this process, as `LISTEN_PID` states. Nothing
            // else in the process knows its number, and TAKEN ensures that it is taken only once.
            // `listen_fds` has just set a flag on it, so it is open.
            let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
            let socket = adopt(descriptor)?;
            Ok(Named { label, socket })
        })
        .collect()
}

fn adopt(descriptor: OwnedFd) -> Result<Inherited> {
    let strange =
        |what: &'static str| Error::invalid(format!("the service manager's socket {what}"));
    let asked = |e: rustix::io::Errno| Error::io("cannot ask what a socket is", e.into());
    let kind = sockopt::socket_type(&descriptor).map_err(asked)?;
    let listens = sockopt::socket_acceptconn(&descriptor).map_err(asked)?;
    if kind != SocketType::STREAM || !listens {
        return Err(strange("is not one that connections come to"));
    }
    match sockopt::socket_domain(&descriptor).map_err(asked)? {
        AddressFamily::UNIX => {
            let listener = UnixListener::from(descriptor);
            let address = listener.local_addr().or_io("a socket has no address")?;
            let path = address
                .as_pathname()
                .map(Path::to_path_buf)
                .ok_or_else(|| strange("has no name in the file system"))?;
            Ok(Inherited::Unix(listener, path))
        }
        AddressFamily::INET | AddressFamily::INET6 => {
            let listener = TcpListener::from(descriptor);
            let address = listener.local_addr().or_io("a socket has no address")?;
            Ok(Inherited::Tcp(listener, address))
        }
        _ => Err(strange("is neither a Unix socket nor TCP")),
    }
}

#[cfg(test)]
mod tests {
    use super::{Inherited, adopt};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn sockets_are_known_by_what_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let unix = adopt(OwnedFd::from(UnixListener::bind(&path).unwrap())).unwrap();
        assert_eq!(unix.path(), Some(path.as_path()));
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        match adopt(OwnedFd::from(tcp)).unwrap() {
            Inherited::Tcp(_, found) => assert_eq!(found, address),
            other @ Inherited::Unix(..) => panic!("{other:?}"),
        }
        let (a, _b) = UnixStream::pair().unwrap();
        assert!(adopt(OwnedFd::from(a)).is_err());
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(adopt(OwnedFd::from(file)).is_err());
    }
}
