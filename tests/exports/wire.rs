//! A few requests of NFSv4.0 (RFC 7530), sent as they are: a client's library would look names up again and hide whether a handle lives.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const PROGRAM: u32 = 100_003;
const COMPOUND: u32 = 1;
const OP_GETFH: u32 = 10;
const OP_LOOKUP: u32 = 15;
const OP_PUTFH: u32 = 22;
const OP_PUTROOTFH: u32 = 24;
const OP_READ: u32 = 25;
/// NFS4_OK.
pub(crate) const OK: u32 = 0;
/// NFS4ERR_STALE.
pub(crate) const STALE: u32 = 70;

/// XDR (RFC 4506), being written.
#[derive(Default)]
struct Xdr(Vec<u8>);

impl Xdr {
    fn word(mut self, word: u32) -> Self {
        self.0.extend(word.to_be_bytes());
        self
    }

    fn opaque(mut self, bytes: &[u8]) -> Self {
        self = self.word(u32::try_from(bytes.len()).unwrap());
        self.0.extend(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }
}

/// XDR, being read.
struct Answer(Vec<u8>, usize);

impl Answer {
    fn word(&mut self) -> u32 {
        let word = u32::from_be_bytes(self.0[self.1..self.1 + 4].try_into().unwrap());
        self.1 += 4;
        word
    }

    fn opaque(&mut self) -> Vec<u8> {
        let length = self.word() as usize;
        let bytes = self.0[self.1..self.1 + length].to_vec();
        self.1 += length.next_multiple_of(4);
        bytes
    }
}

/// Sends one COMPOUND of root's; what is answered stands at the first result.
fn compound(port: u16, operations: u32, body: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let credentials = Xdr::default()
        .word(0)
        .opaque(b"test")
        .word(0)
        .word(0)
        .word(0)
        .0;
    let mut call = Xdr::default()
        .word(7)
        .word(0)
        .word(2)
        .word(PROGRAM)
        .word(4)
        .word(COMPOUND);
    call = call.word(1).opaque(&credentials).word(0).word(0);
    call = call.opaque(b"").word(0).word(operations);
    call.0.extend(body);
    let length = u32::try_from(call.0.len()).unwrap() | 1 << 31;
    stream
        .write_all(&[&length.to_be_bytes()[..], &call.0].concat())
        .unwrap();
    let mut reply = Vec::new();
    loop {
        let mut mark = [0; 4];
        stream.read_exact(&mut mark).unwrap();
        let mark = u32::from_be_bytes(mark);
        let mut part = vec![0; (mark & !(1 << 31)) as usize];
        stream.read_exact(&mut part).unwrap();
        reply.extend(part);
        if mark >> 31 == 1 {
            break;
        }
    }
    let mut answer = Answer(reply, 0);
    // xid, REPLY, accepted, verifier, success; status, tag, number of results.
    assert_eq!((answer.word(), answer.word(), answer.word()), (7, 1, 0));
    answer.word();
    answer.opaque();
    assert_eq!(answer.word(), 0, "the call was not executed");
    answer.word();
    answer.opaque();
    answer.word();
    answer
}

/// The handle of a file, by its path from the root.
///
/// # Panics
/// When it is not found.
pub(crate) fn handle(port: u16, path: &str) -> Vec<u8> {
    let names: Vec<&str> = path.split('/').collect();
    let mut body = Xdr::default().word(OP_PUTROOTFH);
    for name in &names {
        body = body.word(OP_LOOKUP).opaque(name.as_bytes());
    }
    let body = body.word(OP_GETFH).0;
    let count = u32::try_from(names.len()).unwrap() + 2;
    let mut answer = compound(port, count, &body);
    for step in 0..count - 1 {
        let (_, status) = (answer.word(), answer.word());
        assert_eq!(status, OK, "step {step} to {path}");
    }
    assert_eq!((answer.word(), answer.word()), (OP_GETFH, OK));
    answer.opaque()
}

/// Reads at an offset of what a handle names, without opening it: the status, and the bytes.
pub(crate) fn read(port: u16, handle: &[u8], offset: u64, length: u32) -> (u32, Vec<u8>) {
    // The anonymous stateid: all zeroes.
    let mut body = Xdr::default().word(OP_PUTFH).opaque(handle).word(OP_READ);
    body = body.word(0).word(0).word(0).word(0);
    body = body
        .word((offset >> 32) as u32)
        .word(offset as u32)
        .word(length);
    let mut answer = compound(port, 2, &body.0);
    let (_, status) = (answer.word(), answer.word());
    if status != OK {
        return (status, Vec::new());
    }
    let (_, status) = (answer.word(), answer.word());
    if status != OK {
        return (status, Vec::new());
    }
    answer.word();
    (OK, answer.opaque())
}
