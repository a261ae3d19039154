//! A client that speaks in bytes, so that it can lie.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A connection on which anything can be said.
pub(crate) struct Raw(pub(crate) UnixStream);

/// A reply: error, and the payload of all its chunks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) cookie: u64,
    pub(crate) error: u32,
    pub(crate) data: Vec<u8>,
}

pub(crate) const READ: u16 = 0;
pub(crate) const WRITE: u16 = 1;
pub(crate) const DISC: u16 = 2;
pub(crate) const FLUSH: u16 = 3;
pub(crate) const TRIM: u16 = 4;
pub(crate) const CACHE: u16 = 5;
pub(crate) const ZEROES: u16 = 6;
pub(crate) const STATUS: u16 = 7;

impl Raw {
    pub(crate) fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        Self(stream)
    }

    /// After the greeting.
    pub(crate) fn greeted(socket: &Path) -> Self {
        let mut raw = Self::connect(socket);
        let greeting: [u8; 18] = raw.take();
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
        raw.say(&3u32.to_be_bytes());
        raw
    }

    /// With an export chosen: structured replies, `base:allocation` and block sizes.
    pub(crate) fn open(socket: &Path, export: &str) -> Self {
        let mut raw = Self::greeted(socket);
        raw.option(8, &[]);
        assert_eq!(raw.answer(8), (1, Vec::new()));
        let name = [&(export.len() as u32).to_be_bytes()[..], export.as_bytes()].concat();
        let context = b"base:allocation";
        let query = [
            &name[..],
            &1u32.to_be_bytes(),
            &15u32.to_be_bytes(),
            context,
        ]
        .concat();
        raw.option(10, &query);
        assert_eq!(raw.answer(10).0, 4);
        assert_eq!(raw.answer(10).0, 1);
        raw.option(
            7,
            &[&name[..], &1u16.to_be_bytes(), &3u16.to_be_bytes()].concat(),
        );
        while raw.answer(7).0 == 3 {}
        raw
    }

    /// With an export chosen: extended headers, `base:allocation` and block sizes.
    pub(crate) fn extended(socket: &Path, export: &str) -> Self {
        let mut raw = Self::greeted(socket);
        raw.option(11, &[]);
        assert_eq!(raw.answer(11), (1, Vec::new()));
        let name = [&(export.len() as u32).to_be_bytes()[..], export.as_bytes()].concat();
        let query = [&name[..], b"\0\0\0\x01\0\0\0\x0fbase:allocation"].concat();
        raw.option(10, &query);
        assert_eq!(raw.answer(10).0, 4);
        assert_eq!(raw.answer(10).0, 1);
        raw.option(7, &[&name[..], b"\0\x01\0\x03"].concat());
        while raw.answer(7).0 == 3 {}
        raw
    }

    pub(crate) fn say(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    pub(crate) fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// The server hangs up; what it says before does not matter.
    pub(crate) fn is_hung_up(&mut self) -> bool {
        let _ = self.0.shutdown(Shutdown::Write);
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(e) => e.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }

    /// The server hangs up by itself, while we would go on.
    pub(crate) fn is_refused(&mut self) -> bool {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => true,
            Err(e) => e.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }

    pub(crate) fn option(&mut self, option: u32, data: &[u8]) {
        self.say(b"IHAVEOPT");
        self.say(&option.to_be_bytes());
        self.say(&(data.len() as u32).to_be_bytes());
        self.say(data);
    }

    /// Type and data of an option reply.
    pub(crate) fn answer(&mut self, option: u32) -> (u32, Vec<u8>) {
        assert_eq!(self.take::<8>(), 0x0003_e889_0455_65a9_u64.to_be_bytes());
        assert_eq!(self.take::<4>(), option.to_be_bytes());
        let kind = u32::from_be_bytes(self.take());
        let mut data = vec![0; u32::from_be_bytes(self.take()) as usize];
        self.0.read_exact(&mut data).unwrap();
        (kind, data)
    }

    pub(crate) fn request(
        &mut self,
        flags: u16,
        command: u16,
        cookie: u64,
        offset: u64,
        length: u32,
    ) {
        let mut bytes = 0x2560_9513_u32.to_be_bytes().to_vec();
        bytes.extend(flags.to_be_bytes());
        bytes.extend(command.to_be_bytes());
        bytes.extend(cookie.to_be_bytes());
        bytes.extend(offset.to_be_bytes());
        bytes.extend(length.to_be_bytes());
        self.say(&bytes);
    }

    pub(crate) fn request_extended(
        &mut self,
        flags: u16,
        command: u16,
        cookie: u64,
        offset: u64,
        length: u64,
    ) {
        let mut bytes = 0x21e4_1c71_u32.to_be_bytes().to_vec();
        bytes.extend(flags.to_be_bytes());
        bytes.extend(command.to_be_bytes());
        bytes.extend(cookie.to_be_bytes());
        bytes.extend(offset.to_be_bytes());
        bytes.extend(length.to_be_bytes());
        self.say(&bytes);
    }

    /// One extended request and its reply.
    pub(crate) fn ask_extended(
        &mut self,
        flags: u16,
        command: u16,
        offset: u64,
        length: u64,
    ) -> Said {
        self.request_extended(flags, command, 77, offset, length);
        self.reply_extended(offset)
    }

    /// The next reply, which answers a request at `offset`: extended chunks and nothing else.
    pub(crate) fn reply_extended(&mut self, offset: u64) -> Said {
        let (mut error, mut data) = (0, Vec::new());
        loop {
            assert_eq!(self.take::<4>(), 0x6e8a_278c_u32.to_be_bytes());
            let flags = u16::from_be_bytes(self.take());
            let kind = u16::from_be_bytes(self.take());
            let cookie = u64::from_be_bytes(self.take());
            assert_eq!(u64::from_be_bytes(self.take()), offset);
            let mut payload = vec![0; u64::from_be_bytes(self.take()) as usize];
            self.0.read_exact(&mut payload).unwrap();
            match kind {
                1 => data.extend(&payload[8..]),
                2 => {
                    let length = u32::from_be_bytes(payload[8..12].try_into().unwrap());
                    data.resize(data.len() + length as usize, 0);
                }
                6 => data.extend(&payload[4..]),
                0x8001 => error = u32::from_be_bytes(payload[..4].try_into().unwrap()),
                0 => assert!(payload.is_empty()),
                kind => panic!("chunk of type {kind}"),
            }
            if flags & 1 != 0 {
                return Said {
                    cookie,
                    error,
                    data,
                };
            }
        }
    }

    /// One request and its reply.
    pub(crate) fn ask(&mut self, flags: u16, command: u16, offset: u64, length: u32) -> Said {
        self.request(flags, command, 77, offset, length);
        self.reply()
    }

    /// The next reply, all its chunks.
    pub(crate) fn reply(&mut self) -> Said {
        let (mut error, mut data) = (0, Vec::new());
        loop {
            match u32::from_be_bytes(self.take()) {
                0x6744_6698 => {
                    let error = u32::from_be_bytes(self.take());
                    let cookie = u64::from_be_bytes(self.take());
                    return Said {
                        cookie,
                        error,
                        data,
                    };
                }
                0x668e_33ef => {
                    let flags = u16::from_be_bytes(self.take());
                    let kind = u16::from_be_bytes(self.take());
                    let cookie = u64::from_be_bytes(self.take());
                    let mut payload = vec![0; u32::from_be_bytes(self.take()) as usize];
                    self.0.read_exact(&mut payload).unwrap();
                    match kind {
                        1 => data.extend(&payload[8..]),
                        2 => {
                            let length = u32::from_be_bytes(payload[8..12].try_into().unwrap());
                            data.resize(data.len() + length as usize, 0);
                        }
                        5 => data.extend(&payload[4..]),
                        0x8001 => error = u32::from_be_bytes(payload[..4].try_into().unwrap()),
                        0 => {}
                        kind => panic!("chunk of type {kind}"),
                    }
                    if flags & 1 != 0 {
                        return Said {
                            cookie,
                            error,
                            data,
                        };
                    }
                }
                magic => panic!("a reply begins with {magic:#x}"),
            }
        }
    }
}
