//! What one side of a reader's line says, in few bytes: a sequence of turns, each a flag (u8), a length (u16, little-endian) and so many
//! bytes. Flag 0: the first 24 bytes are the message, the rest is put into the shared memory; 1: an answer (kind 2) with them; 2: a call
//! (kind 1) with them; 3: bytes of a file (kind 3); else: nothing is put, and they are sent as they are.

use restorefs::guest::worker::Played;

/// Bytes of a message.
const MESSAGE_BYTES: usize = 24;

/// A turn.
struct Turn<'a> {
    flag: u8,
    bytes: &'a [u8],
}

fn turns(mut data: &[u8]) -> impl Iterator<Item = Turn<'_>> {
    std::iter::from_fn(move || {
        let ([flag, low, high], rest) = data.split_first_chunk::<3>()?;
        let length = usize::from(u16::from_le_bytes([*low, *high]));
        let (bytes, rest) = rest.split_at(length.min(rest.len()));
        data = rest;
        Some(Turn { flag: *flag, bytes })
    })
}

fn say(played: &Played, turn: &Turn<'_>) -> restorefs::error::Result<()> {
    let spoken = |kind: u8| {
        let mut message = [0; MESSAGE_BYTES];
        message[0] = kind;
        let length = u64::try_from(turn.bytes.len()).unwrap_or(0);
        message[16..].copy_from_slice(&length.to_le_bytes());
        message
    };
    let kind = match turn.flag {
        0 => {
            let (message, rest) = turn.bytes.split_at(turn.bytes.len().min(MESSAGE_BYTES));
            played.put(rest)?;
            return played.send(message);
        }
        1 => 2,
        2 => 1,
        3 => 3,
        _ => return played.send(turn.bytes),
    };
    played.put(turn.bytes)?;
    played.send(&spoken(kind))
}

/// Says a turn whenever the other side has said something, or first where `begins`; then the line ends.
pub(crate) fn play(played: &Played, data: &[u8], begins: bool) {
    let mut is_asked = begins;
    for turn in turns(data) {
        if !is_asked && played.receive().is_none() {
            return;
        }
        is_asked = false;
        // Whoever says nothing hears nothing: both sides would wait.
        if turn.bytes.is_empty() && !matches!(turn.flag, 1..=3) {
            return;
        }
        if say(played, &turn).is_err() {
            return;
        }
    }
    // The last one is answered before the line ends.
    if !is_asked {
        let _ = played.receive();
    }
}
