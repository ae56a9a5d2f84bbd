//! Connection slots: a number in all, and a number for each address.
//!
//! Promises: when all slots are taken, the connections that have been idle longest are closed for new ones. So neither idle
//! connections nor those that never finish a header keep anybody out. Only if none is idle do new connections wait. All but
//! one wait in the system's queue, where they cost nothing: to refuse each would take handles and time that are scarce.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::sync::{Mutex, MutexGuard, lock};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::config::Callers;
use crate::engine::gates::Network;
use crate::sync::resize;

/// Closing takes a moment, so several slots are made free at once: one in so many, and at most so many.
const ROOM: (usize, usize) = (64, 64);

/// All slots.
#[derive(Debug)]
pub(super) struct Slots {
    free: Arc<Semaphore>,
    taken: Mutex<Taken>,
}

#[derive(Debug)]
struct Taken {
    callers: Callers,
    by_network: HashMap<Network, usize>,
    /// The idle connections, in the order in which they became idle.
    idle: BTreeMap<u64, Arc<Notify>>,
    /// How often a connection became idle.
    waits: u64,
    /// Whether the next idle connection must close at once.
    wanted: bool,
}

/// A free slot, for the next connection.
pub(super) struct FreeSlot {
    _permit: OwnedSemaphorePermit,
}

/// A connection's slot, until it is dropped.
pub(super) struct Slot {
    slots: Arc<Slots>,
    /// The network that it counts for, if it counts for one.
    network: Option<Network>,
    _taken: FreeSlot,
    busy: AtomicBool,
    /// Its number among the idle connections; 0 if it is not idle.
    wait: AtomicU64,
    leave: Arc<Notify>,
}

impl Slots {
    /// The slots that `callers` sets.
    pub(super) fn new(callers: &Callers) -> Self {
        Self {
            free: Arc::new(Semaphore::new(callers.connections_max)),
            taken: Mutex::new(Taken {
                callers: callers.clone(),
                by_network: HashMap::new(),
                idle: BTreeMap::new(),
                waits: 0,
                wanted: false,
            }),
        }
    }

    /// Changes the number of slots to what `callers` sets. Connections keep theirs.
    pub(super) fn follow(&self, callers: &Callers) {
        let mut taken = self.taken();
        resize(&self.free, taken.callers.connections_max, callers.connections_max);
        taken.callers = callers.clone();
    }

    /// A free slot, if there is one.
    pub(super) fn free_now(&self) -> Option<FreeSlot> {
        Arc::clone(&self.free).try_acquire_owned().ok().map(|permit| FreeSlot { _permit: permit })
    }

    /// A free slot. Waits for one if an idle connection has to close first.
    pub(super) async fn free(&self) -> FreeSlot {
        self.make_room();
        let free = Arc::clone(&self.free).acquire_owned().await;
        self.taken().wanted = false;
        match free {
            Ok(permit) => FreeSlot { _permit: permit },
            // The semaphore is never closed.
            Err(_) => std::future::pending().await,
        }
    }

    /// Gives a slot to a connection from an address. An error is the number that the address may have.
    pub(super) fn take(self: &Arc<Self>, free: FreeSlot, address: IpAddr) -> Result<Slot, usize> {
        let mut taken = self.taken();
        // A proxy's connections come from many callers.
        let alone = !taken.callers.spares(address) && !taken.callers.trusts(address);
        let network = alone.then(|| Network::of(address));
        if let Some(network) = network {
            let max = taken.callers.connections_per_address_max;
            let count = taken.by_network.entry(network).or_default();
            if *count >= max {
                return Err(max);
            }
            *count += 1;
        }
        drop(taken);
        Ok(Slot {
            slots: Arc::clone(self),
            network,
            _taken: free,
            busy: AtomicBool::new(false),
            wait: AtomicU64::new(0),
            leave: Arc::default(),
        })
    }

    fn make_room(&self) {
        let mut taken = self.taken();
        taken.wanted = taken.idle.is_empty();
        for _ in 0..(taken.callers.connections_max / ROOM.0).clamp(1, ROOM.1) {
            let Some((_, leave)) = taken.idle.pop_first() else { break };
            leave.notify_one();
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        lock(&self.taken)
    }
}

impl Slot {
    /// The connection waits for a request.
    pub(super) fn idle(&self) {
        self.busy.store(false, Ordering::Release);
        let mut taken = self.slots.taken();
        if std::mem::take(&mut taken.wanted) {
            self.leave.notify_one();
            return;
        }
        taken.waits += 1;
        let wait = taken.waits;
        taken.idle.insert(wait, Arc::clone(&self.leave));
        self.set_wait(&mut taken, wait);
    }

    /// The connection has a request.
    pub(super) fn busy(&self) {
        self.busy.store(true, Ordering::Release);
        self.set_wait(&mut self.slots.taken(), 0);
    }

    /// Whether it has a request that is not answered yet.
    pub(super) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Acquire)
    }

    /// Completes when the connection must close.
    pub(super) async fn asked_to_leave(&self) {
        self.leave.notified().await;
    }

    fn set_wait(&self, taken: &mut Taken, wait: u64) {
        taken.idle.remove(&self.wait.swap(wait, Ordering::Relaxed));
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.taken();
        self.set_wait(&mut taken, 0);
        let Some(network) = self.network else { return };
        if let Some(count) = taken.by_network.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                taken.by_network.remove(&network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(connections_max: usize, connections_per_address_max: usize) -> Arc<Slots> {
        let callers = Callers {
            connections_max,
            connections_per_address_max,
            loopback_exempt: true,
            site_calls_per_second: None,
            failed_authorisations_per_minute: None,
            trusted_proxies: ["192.0.2.128/25".parse().unwrap()].into(),
        };
        Arc::new(Slots::new(&callers))
    }

    fn take(slots: &Arc<Slots>, address: &str) -> Result<Slot, usize> {
        slots.take(slots.free_now().unwrap(), address.parse().unwrap())
    }

    #[test]
    fn an_address_has_so_many_places_and_no_more() {
        let slots = slots(100, 2);
        let two = [take(&slots, "192.0.2.1").unwrap(), take(&slots, "::ffff:192.0.2.1").unwrap()];
        assert_eq!(take(&slots, "192.0.2.1").err(), Some(2));
        let other = take(&slots, "192.0.2.2").unwrap();
        let [one, _two] = two;
        drop(one);
        take(&slots, "192.0.2.1").unwrap();
        drop((other, _two));
        let many: Vec<_> = (0..3).map(|_| take(&slots, "127.0.0.1").unwrap()).collect();
        drop(many);
        let many: Vec<_> = (0..3).map(|_| take(&slots, "192.0.2.200").unwrap()).collect();
        drop(many);
        assert!(slots.taken().by_network.is_empty(), "who has gone is forgotten");
    }

    #[tokio::test]
    async fn whoever_has_been_idle_longest_makes_room() {
        let slots = slots(3, 9);
        let [busy, long, short] = ["192.0.2.1"; 3].map(|address| take(&slots, address).unwrap());
        for slot in [&long, &busy, &short] {
            slot.idle();
        }
        busy.busy();
        assert!(slots.free_now().is_none());
        let free = tokio::spawn({
            let slots = Arc::clone(&slots);
            async move { slots.free().await }
        });
        long.asked_to_leave().await;
        drop(long);
        drop(free.await.unwrap());
        assert_eq!(slots.taken().idle.len(), 1);
        drop((busy, short));
        assert!(slots.taken().idle.is_empty());
    }

    #[tokio::test]
    async fn if_none_is_idle_the_next_to_be_makes_room() {
        let slots = slots(1, 9);
        let busy = take(&slots, "192.0.2.1").unwrap();
        busy.busy();
        let free = tokio::spawn({
            let slots = Arc::clone(&slots);
            async move { slots.free().await }
        });
        while !slots.taken().wanted {
            tokio::task::yield_now().await;
        }
        busy.idle();
        busy.asked_to_leave().await;
        drop(busy);
        free.await.unwrap();
        assert!(!slots.taken().wanted);
    }
}
