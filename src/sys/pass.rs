//! Descriptors passed from one process to another (SCM_RIGHTS of unix(7)).

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::error::{Error, Result, ResultExt};

/// LIMIT: descriptors in one message (our limit; Linux allows 253).
pub const DESCRIPTORS_MAX: usize = 32;

/// Sends `bytes`, at least one byte, with descriptors.
///
/// # Errors
/// `InvalidInput` with too many descriptors; `BrokenPipe`, `Io`.
pub fn send(socket: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if descriptors.len() > DESCRIPTORS_MAX
        || !ancillary.push(SendAncillaryMessage::ScmRights(descriptors))
    {
        return Err(Error::invalid("too many descriptors"));
    }
    let sent = sendmsg(
        socket,
        &[IoSlice::new(bytes)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )
    .map_err(std::io::Error::from)
    .or_io("cannot send descriptors")?;
    if sent == bytes.len() {
        Ok(())
    } else {
        Err(Error::invalid("a message too long to go with descriptors"))
    }
}

/// Receives up to `buf.len()` bytes, and the descriptors sent with them. Returns the number of bytes.
///
/// # Errors
/// `Io`.
pub fn receive(socket: &UnixStream, buf: &mut [u8]) -> Result<(usize, Vec<OwnedFd>)> {
    try_receive(socket, buf).or_io("cannot receive descriptors")
}

/// [`receive`] for non-blocking sockets, whose callers check the kind of the error.
///
/// # Errors
/// The error of recvmsg(2).
pub fn try_receive(socket: impl AsFd, buf: &mut [u8]) -> std::io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(buf)];
    let received = recvmsg(socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        .map_err(std::io::Error::from)?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    Ok((received.bytes, descriptors))
}

#[cfg(test)]
mod tests {
    use super::{DESCRIPTORS_MAX, receive, send};
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_descriptor_arrives_and_works() {
        let (a, b) = UnixStream::pair().unwrap();
        let (mut c, d) = UnixStream::pair().unwrap();
        send(&a, b"take this", &[d.as_fd()]).unwrap();
        let mut buf = [0; 32];
        let (length, mut descriptors) = receive(&b, &mut buf).unwrap();
        assert_eq!((&buf[..length], descriptors.len()), (&b"take this"[..], 1));
        drop(d);
        let mut d = UnixStream::from(descriptors.remove(0));
        d.write_all(b"x").unwrap();
        drop(d);
        let mut end = Vec::new();
        c.read_to_end(&mut end).unwrap();
        assert_eq!(end, b"x");
        let many = vec![b.as_fd(); DESCRIPTORS_MAX + 1];
        assert!(send(&a, b"x", &many).is_err());
    }
}
