//! The lobby of a TLS listener: connections that have not shown a certificate yet. They are strangers, and must not keep clients out.
//!
//! # Invariants
//! - Strangers have seats of their own: as many as they take, none of those is taken who have shown a certificate.
//! - A connection that comes always gets a seat. Where its address (of IPv6 its /64) or the lobby is full, somebody makes room: of the
//!   address with the most seats the one that has been silent for longest, else the one that has been there for longest. So a client that
//!   answers the greeting at once passes, however many are silent. (Were it the newest, the next stranger would throw out a client that has
//!   just come from the same address.)
//! - What strangers do is at most one line of the log in a minute.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::limit::ServerLimits;
use crate::error::Error;
use crate::types::sync::Mutex;
use crate::types::width::usize_from_u32;

/// LIMIT: how often the log has a line of strangers.
const LINE_INTERVAL: Duration = Duration::from_secs(60);

/// Somebody who waits in the lobby.
struct Guest {
    address: IpAddr,
    has_spoken: Arc<AtomicBool>,
    leave: Arc<Notify>,
}

#[derive(Default)]
struct Room {
    next: u64,
    guests: BTreeMap<u64, Guest>,
}

/// Strangers that were turned away, or went, since the last line of the log.
#[derive(Default)]
struct Strangers {
    count: u64,
    told: Option<Instant>,
}

/// The seats of connections that have shown no certificate yet.
pub(super) struct Lobby {
    room: Mutex<Room>,
    inside: AtomicU32,
    strangers: Mutex<Strangers>,
    limits: ServerLimits,
}

/// A seat in the lobby, free again when dropped.
pub(super) struct Seat {
    lobby: Arc<Lobby>,
    number: u64,
    has_spoken: Arc<AtomicBool>,
    leave: Arc<Notify>,
}

/// A place among those who have shown a certificate.
pub(super) struct Inside(Arc<Lobby>);

/// Addresses that one party has: whoever has an IPv6 address has its /64.
fn party(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None => {
                let prefix = v6.to_bits() & !u128::from(u64::MAX);
                IpAddr::V6(Ipv6Addr::from_bits(prefix))
            }
        },
        v4 @ IpAddr::V4(_) => v4,
    }
}

impl Room {
    fn seats_of(&self, address: IpAddr) -> usize {
        let guests = self.guests.values();
        guests.filter(|guest| guest.address == address).count()
    }

    /// The one of an address that has been there for longest, silent ones first.
    fn longest_of(&self, address: IpAddr) -> Option<u64> {
        let guests = || self.guests.iter().filter(|(_, g)| g.address == address);
        let mut silent = guests().filter(|(_, g)| !g.has_spoken.load(Ordering::Relaxed));
        silent.next().or_else(|| guests().next()).map(|(n, _)| *n)
    }

    /// The address that has the most seats.
    fn fullest(&self) -> Option<IpAddr> {
        let addresses = self.guests.values().map(|guest| guest.address);
        addresses.max_by_key(|address| self.seats_of(*address))
    }
}

impl Lobby {
    pub(super) fn new(limits: ServerLimits) -> Arc<Self> {
        Arc::new(Self {
            room: Mutex::default(),
            inside: AtomicU32::new(0),
            strangers: Mutex::default(),
            limits,
        })
    }

    /// A seat for who has connected; somebody makes room where none is free.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr) -> Seat {
        let address = party(address);
        let mut room = self.room.lock();
        let is_full = |most: u32, seats: usize| seats >= usize_from_u32(most);
        let from = if is_full(self.limits.strangers_of_one, room.seats_of(address)) {
            Some(address)
        } else if is_full(self.limits.strangers, room.guests.len()) {
            room.fullest()
        } else {
            None
        };
        let victim = from.and_then(|address| room.longest_of(address));
        if let Some(guest) = victim.and_then(|number| room.guests.remove(&number)) {
            guest.leave.notify_one();
        }
        let number = room.next;
        room.next += 1;
        let (has_spoken, leave) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
        let guest = Guest {
            address,
            has_spoken: Arc::clone(&has_spoken),
            leave: Arc::clone(&leave),
        };
        room.guests.insert(number, guest);
        Seat {
            lobby: Arc::clone(self),
            number,
            has_spoken,
            leave,
        }
    }

    /// Writes to the log that a stranger has gone, at most once in a minute.
    pub(super) fn tell(&self, address: IpAddr, why: &Error) {
        let mut strangers = self.strangers.lock();
        strangers.count += 1;
        if strangers
            .told
            .is_some_and(|told| told.elapsed() < LINE_INTERVAL)
        {
            tracing::debug!(%address, error = %why.report(), "an NBD connection ended before TLS");
            return;
        }
        tracing::warn!(
            %address,
            count = strangers.count,
            error = %why.report(),
            "NBD connections ended before TLS; the last one"
        );
        *strangers = Strangers {
            count: 0,
            told: Some(Instant::now()),
        };
    }
}

impl Seat {
    /// The lobby that it is in.
    pub(super) fn lobby(&self) -> Arc<Lobby> {
        Arc::clone(&self.lobby)
    }

    /// Notes that the client has answered the greeting.
    pub(super) fn speaks(&self) {
        self.has_spoken.store(true, Ordering::Relaxed);
    }

    /// Returns when the seat was given to somebody else.
    pub(super) async fn taken(&self) {
        self.leave.notified().await;
    }

    /// Leaves the lobby for a place inside; `None` where all of them are taken.
    pub(super) fn pass(self) -> Option<Inside> {
        let lobby = Arc::clone(&self.lobby);
        let most = lobby.limits.connections;
        let took = lobby
            .inside
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |inside| {
                (inside < most).then_some(inside + 1)
            });
        took.is_ok().then(|| Inside(lobby))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.lobby.room.lock().guests.remove(&self.number);
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::{Lobby, Seat, party};
    use crate::nbd::server::ServerLimits;
    use std::net::IpAddr;
    use std::sync::Arc;

    fn address(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    fn lobby(strangers: u32, strangers_of_one: u32) -> Arc<Lobby> {
        Lobby::new(ServerLimits {
            strangers,
            strangers_of_one,
            connections: 2,
            ..ServerLimits::default()
        })
    }

    fn is_taken(seat: &Seat) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let patience = std::time::Duration::from_millis(20);
        runtime.block_on(async { tokio::time::timeout(patience, seat.taken()).await.is_ok() })
    }

    #[test]
    fn the_longest_silent_one_of_a_full_address_makes_room() {
        let lobby = lobby(100, 3);
        let seats: Vec<Seat> = (0..3).map(|_| lobby.enter(address(1))).collect();
        seats[0].speaks();
        let other = lobby.enter(address(2));
        let fourth = lobby.enter(address(1));
        assert!(is_taken(&seats[1]));
        assert!(!is_taken(&seats[0]) && !is_taken(&seats[2]) && !is_taken(&other));
        fourth.speaks();
        seats[2].speaks();
        // All have spoken: the one that has been there for longest.
        let fifth = lobby.enter(address(1));
        assert!(is_taken(&seats[0]) && !is_taken(&fourth) && !is_taken(&fifth));
    }

    #[test]
    fn of_a_full_lobby_the_address_with_the_most_seats_makes_room() {
        let lobby = lobby(6, 4);
        let good = lobby.enter(address(9));
        let bad: Vec<Seat> = (0..4).map(|_| lobby.enter(address(1))).collect();
        let also = lobby.enter(address(2));
        let new = lobby.enter(address(3));
        assert!(is_taken(&bad[0]));
        assert!(!is_taken(&good) && !is_taken(&also) && !is_taken(&new));
    }

    #[test]
    fn places_inside_are_counted_apart_and_given_back() {
        let lobby = lobby(4, 4);
        let first = lobby.enter(address(1)).pass().unwrap();
        let _second = lobby.enter(address(1)).pass().unwrap();
        assert!(lobby.enter(address(1)).pass().is_none());
        drop(first);
        assert!(lobby.enter(address(1)).pass().is_some());
    }

    #[test]
    fn one_party_has_all_addresses_of_its_prefix() {
        let of = |text: &str| party(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), address(1));
    }
}
