//! The lobby of a TLS listener: connections that have not presented a certificate yet (strangers). They must
//! not keep clients out.
//!
//! # Invariants
//! - Strangers have their own seats: however many they take, connections with a certificate lose none.
//! - A new connection always gets a seat. Where its address (for IPv6 its /64) or the lobby is full, another
//!   connection is closed: of the address with the most seats, the one that has been silent for longest, else
//!   the oldest one. So a client that answers the greeting at once passes, however many silent ones there
//!   are. (If the newest were closed instead, the next stranger would evict a client that has just connected
//!   from the same address.)
//! - Strangers cause at most one line of the log a minute.

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

/// LIMIT: interval between lines of the log about strangers.
const LINE_INTERVAL: Duration = Duration::from_secs(60);

/// A connection that waits in the lobby.
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

/// Strangers that were closed, or left, since the last line of the log.
#[derive(Default)]
struct Strangers {
    count: u64,
    logged_at: Option<Instant>,
}

/// The seats of connections without a certificate.
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

/// A place among the connections with a certificate.
pub(super) struct Inside(Arc<Lobby>);

/// Groups the addresses of one party: the owner of an IPv6 address has its whole /64.
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

    /// The oldest connection of an address; silent ones come first.
    fn longest_of(&self, address: IpAddr) -> Option<u64> {
        let guests = || self.guests.iter().filter(|(_, g)| g.address == address);
        let mut silent = guests().filter(|(_, g)| !g.has_spoken.load(Ordering::Relaxed));
        silent.next().or_else(|| guests().next()).map(|(n, _)| *n)
    }

    /// The address with the most seats.
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

    /// A seat for a new connection; closes another one when none is free.
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

    /// Logs that a stranger has left, at most once a minute.
    pub(super) fn tell(&self, address: IpAddr, why: &Error) {
        let mut strangers = self.strangers.lock();
        strangers.count += 1;
        if strangers
            .logged_at
            .is_some_and(|logged_at| logged_at.elapsed() < LINE_INTERVAL)
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
            logged_at: Some(Instant::now()),
        };
    }
}

impl Seat {
    /// The lobby of this seat.
    pub(super) fn lobby(&self) -> Arc<Lobby> {
        Arc::clone(&self.lobby)
    }

    /// Records that the client has answered the greeting.
    pub(super) fn speaks(&self) {
        self.has_spoken.store(true, Ordering::Relaxed);
    }

    /// Returns when the seat was given to another connection.
    pub(super) async fn taken(&self) {
        self.leave.notified().await;
    }

    /// Leaves the lobby for a place inside; `None` when all places are taken.
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
        // All clients have spoken: the oldest connection is closed.
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
