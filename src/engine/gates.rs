//! Who may do how much: the places for uploads, dry runs, exports, feeds of changes, reports, searches for lines, counts of visitors with
//! searches by a value, maintenance tasks, streams of events and large calls. Each kind has one pool, and all pools follow the same rules.
//!
//! Promises:
//! - A caller who comes alone may have all places of a pool.
//! - If another caller comes and no place is free, a caller who holds more places than the newcomer makes room. At first that is the
//!   one who has kept the daemon waiting longest, beyond what it earned by what it brought or took. After a second it is any that
//!   waits for its caller, and after five seconds any. One that stalls makes room for anybody who has fewer places, if only by one.
//! - A caller is a client at an address. A caller does not push out its own calls.
//! - A limited number may wait for a place, for a limited time. Who waits gets a place before a later caller who holds more.
//! - A place is held until the last work for it is done, even if its caller has gone.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::engine::error::EngineError;
pub use crate::engine::scarce::Scarce;
use crate::model::id::ClientCode;
use crate::sync::unpoisoned;
use crate::telemetry::metrics::{Limit, Metrics, UnderWay};

/// After how long a newcomer makes a holder leave that waits for its caller without having stalled, and after how long any
/// holder.
const INSIST: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5));
/// How many grants are remembered, so that a caller who had fewer lately comes first.
const GRANTS_REMEMBERED: usize = 16;

/// Where a caller is: its address; for IPv6 the /64, because whoever has one address of those has all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network(IpAddr);

impl Network {
    /// The network of an address.
    pub fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

/// The caller for whom a place is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    client: Option<ClientCode>,
    network: Network,
}

impl Who {
    /// A caller from an address, for a client or for none.
    pub fn new(client: Option<&ClientCode>, address: IpAddr) -> Self {
        Self { client: client.cloned(), network: Network::of(address) }
    }
}

/// How a pool shares its places.
#[derive(Debug, Clone, Copy)]
struct Rules {
    /// How many may wait for a place.
    waiting_max: usize,
    /// How long each may wait.
    wait_max: Duration,
    /// Whether the work is the daemon's own. Then all wait for their turn, and nobody who has it must make room.
    by_turns: bool,
}

impl Rules {
    const fn of(scarce: Scarce) -> Self {
        match scarce {
            Scarce::Uploads
            | Scarce::Exports
            | Scarce::Erasures
            | Scarce::Changes
            | Scarce::Reports
            | Scarce::EventStreams
            | Scarce::LargeCalls => {
                Self { waiting_max: 64, wait_max: Duration::from_secs(10), by_turns: false }
            }
            // An upload that waits for its turn keeps its index in memory, 8 MB at most.
            Scarce::DryRuns | Scarce::LineSearches | Scarce::Counts => {
                Self { waiting_max: 8, wait_max: Duration::from_secs(60), by_turns: true }
            }
            // A large backup takes long.
            Scarce::Tasks => Self { waiting_max: 8, wait_max: Duration::from_secs(3600), by_turns: true },
        }
    }
}

/// The places of one kind.
#[derive(Debug, Clone)]
pub struct Shares(Arc<Pool>);

#[derive(Debug)]
struct Pool {
    scarce: Scarce,
    rules: Rules,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
    /// Notifies all who wait when the state has changed.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    max: usize,
    held: BTreeMap<u64, Holder>,
    /// In the order in which they came.
    waiting: Vec<Waiter>,
    granted: VecDeque<Who>,
    next: u64,
}

#[derive(Debug)]
struct Holder {
    who: Who,
    /// While it waits for its caller: when it begins to count as stalled.
    stalls_at: Option<Instant>,
    /// Notified when the holder must make room.
    leave: Arc<Leave>,
}

#[derive(Debug, Default)]
struct Leave {
    asked: AtomicBool,
    notify: Notify,
}

#[derive(Debug)]
struct Waiter {
    number: u64,
    who: Who,
    came: Instant,
    /// Whether another caller has its place in the queue.
    displaced: bool,
}

/// A place. It is free again when the last copy is dropped.
#[derive(Debug, Clone)]
pub struct Slot(Arc<Held>);

#[derive(Debug)]
struct Held {
    pool: Arc<Pool>,
    number: u64,
    leave: Arc<Leave>,
    _counted: UnderWay,
}

/// While this exists, the holder of the place waits for its caller.
#[derive(Debug)]
pub struct Waits<'a>(&'a Slot);

/// What a waiter must do.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Take,
    Refused,
    Displaced,
    Wait(Instant),
}

impl Shares {
    /// A pool of so many places.
    pub fn new(scarce: Scarce, max: usize, metrics: &Arc<Metrics>) -> Self {
        // This makes the series of the metric exist from the start.
        drop(metrics.place(scarce.name()));
        Self(Arc::new(Pool {
            scarce,
            rules: Rules::of(scarce),
            metrics: Arc::clone(metrics),
            state: Mutex::new(State { max, ..State::default() }),
            changed: Notify::new(),
        }))
    }

    /// Takes a place, if one is free or another caller makes room in time.
    pub async fn take(&self, who: &Who) -> Result<Slot, EngineError> {
        let pool = &self.0;
        let queued = Queued { pool, number: pool.queue(who) };
        loop {
            let mut changed = std::pin::pin!(pool.changed.notified());
            changed.as_mut().enable();
            match pool.next(queued.number)? {
                Next::Slot(place) => return Ok(place),
                Next::Wait(until) => tokio::select! {
                    () = changed => {}
                    () = sleep_until(until) => {}
                },
            }
        }
    }

    /// Changes the number of places. Whoever has one keeps it.
    pub fn resize(&self, max: usize) {
        self.0.state().max = max;
        self.0.changed.notify_waiters();
    }

    /// Completes when no place is taken.
    pub async fn all_free(&self) {
        loop {
            let mut changed = std::pin::pin!(self.0.changed.notified());
            changed.as_mut().enable();
            if self.0.state().held.is_empty() {
                return;
            }
            changed.await;
        }
    }
}

/// A caller who waits. Dropping it ends the wait, with or without a place.
struct Queued<'a> {
    pool: &'a Arc<Pool>,
    number: u64,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.pool.state().waiting.retain(|waiter| waiter.number != self.number);
        self.pool.changed.notify_waiters();
    }
}

/// What a caller who wants a place gets.
enum Next {
    Slot(Slot),
    Wait(Instant),
}

impl Pool {
    fn queue(&self, who: &Who) -> u64 {
        let (number, displaced) = self.state().queue(who, Instant::now(), self.rules);
        if displaced {
            self.changed.notify_waiters();
        }
        number
    }

    fn next(self: &Arc<Self>, number: u64) -> Result<Next, EngineError> {
        let mut state = self.state();
        let (turn, victim) = state.turn(number, Instant::now(), self.rules);
        if let Some(victim) = victim {
            self.metrics.hit(Limit::MadeRoom);
            tracing::info!(
                of = self.scarce.name(),
                limit = Limit::MadeRoom.name(),
                "one made room for another"
            );
            victim.asked.store(true, Ordering::Release);
            victim.notify.notify_one();
        }
        match turn {
            Turn::Take => {
                let leave = state.grant(number);
                let _counted = self.metrics.place(self.scarce.name());
                Ok(Next::Slot(Slot(Arc::new(Held { pool: Arc::clone(self), number, leave, _counted }))))
            }
            Turn::Refused => Err(EngineError::Taken(self.scarce, state.max)),
            Turn::Displaced => {
                self.metrics.hit(Limit::MadeRoom);
                Err(EngineError::MadeRoom(self.scarce))
            }
            Turn::Wait(until) => Ok(Next::Wait(until)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        unpoisoned(self.state.lock())
    }
}

impl Slot {
    /// A place for the daemon's own work, beside all pools: nobody else wants it.
    pub(in crate::engine) fn of_the_daemon(scarce: Scarce, metrics: &Arc<Metrics>) -> Self {
        let Shares(pool) = Shares::new(scarce, 1, metrics);
        let _counted = metrics.place(scarce.name());
        Self(Arc::new(Held { pool, number: 0, leave: Arc::default(), _counted }))
    }

    /// The holder waits for its caller until the guard is dropped. After `patience` it counts as stalled.
    pub fn waits(&self, patience: Duration) -> Waits<'_> {
        let stalls_at = Instant::now().checked_add(patience);
        self.note(stalls_at.or_else(|| Instant::now().checked_add(Duration::from_secs(3600))));
        Waits(self)
    }

    /// The holder waits from now on, and counts as stalled.
    pub fn waits_for_good(&self) {
        self.note(Some(Instant::now()));
    }

    /// Completes when the holder must make room.
    pub async fn asked_to_leave(&self) -> EngineError {
        while !self.is_asked_to_leave() {
            self.0.leave.notify.notified().await;
        }
        EngineError::MadeRoom(self.0.pool.scarce)
    }

    /// Whether the holder must make room.
    pub fn is_asked_to_leave(&self) -> bool {
        self.0.leave.asked.load(Ordering::Acquire)
    }

    fn note(&self, stalls_at: Option<Instant>) {
        let mut state = self.0.pool.state();
        if let Some(holder) = state.held.get_mut(&self.0.number) {
            holder.stalls_at = stalls_at;
        }
        let anybody = !state.waiting.is_empty();
        drop(state);
        if anybody {
            self.0.pool.changed.notify_waiters();
        }
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.note(None);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.pool.state().held.remove(&self.number);
        self.pool.changed.notify_waiters();
    }
}

impl State {
    /// Puts a newcomer at the end of the queue. If the queue is full, it takes the place of a waiter whose owner has more of
    /// them there.
    fn queue(&mut self, who: &Who, now: Instant, rules: Rules) -> (u64, bool) {
        let mut displaced = false;
        if self.waiting.iter().filter(|waiter| !waiter.displaced).count() >= rules.waiting_max {
            let (held, waiting) = (&self.held, Self::queued(&self.waiting));
            let over: Vec<u64> = waiting
                .iter()
                .filter(|(_, other)| excess(other, who, held, &waiting).is_some_and(|it| it.over()))
                .map(|(number, _)| *number)
                .collect();
            if let Some(last) = self.waiting.iter_mut().rfind(|waiter| over.contains(&waiter.number)) {
                last.displaced = true;
                displaced = true;
            }
        }
        self.next += 1;
        let number = self.next;
        self.waiting.push(Waiter { number, who: who.clone(), came: now, displaced: false });
        (number, displaced)
    }

    fn queued(waiting: &[Waiter]) -> Vec<(u64, Who)> {
        let still = waiting.iter().filter(|waiter| !waiter.displaced);
        still.map(|waiter| (waiter.number, waiter.who.clone())).collect()
    }

    /// What a waiter must do now, and who must make room for it.
    fn turn(&mut self, number: u64, now: Instant, rules: Rules) -> (Turn, Option<Arc<Leave>>) {
        let Some(me) = self.waiting.iter().find(|waiter| waiter.number == number) else {
            return (Turn::Refused, None);
        };
        if me.displaced {
            return (Turn::Displaced, None);
        }
        let (who, came) = (me.who.clone(), me.came);
        let key = |waiter: &Waiter| (self.load(&waiter.who), waiter.number);
        let mine = key(me);
        let before = self.waiting.iter().filter(|other| !other.displaced && key(other) < mine).count();
        let free = self.max.saturating_sub(self.held.len());
        if free > before {
            return (Turn::Take, None);
        }
        let earlier: Vec<_> =
            Self::queued(&self.waiting).into_iter().filter(|(other, _)| *other < number).collect();
        if now >= came + rules.wait_max || earlier.len() >= rules.waiting_max {
            return (Turn::Refused, None);
        }
        if rules.by_turns {
            return (Turn::Wait(came + rules.wait_max), None);
        }
        let leaving = self.held.values().filter(|holder| holder.is_leaving()).count();
        if free + leaving > before {
            return (Turn::Wait(came + rules.wait_max), None);
        }
        let waited = now.duration_since(came);
        let (mut hope, mut until, mut victim) =
            (false, came + rules.wait_max, None::<(Option<Instant>, u64)>);
        for (at, holder) in self.held.iter().filter(|(_, holder)| !holder.is_leaving()) {
            let Some(excess) = excess(&holder.who, &who, &self.held, &earlier) else { continue };
            if excess.sum <= 0 {
                continue;
            }
            hope = true;
            let stalls = holder.stalls_at.is_some_and(|at| at <= now);
            let insisted = holder.stalls_at.is_some() && waited >= INSIST.0 || waited >= INSIST.1;
            if stalls || excess.over() && insisted {
                // The one that stalled first goes first; those that do not wait go last.
                let rank = |at: Option<Instant>| (at.is_none(), at);
                if victim.is_none_or(|(best, _)| rank(holder.stalls_at) < rank(best)) {
                    victim = Some((holder.stalls_at, *at));
                }
            } else {
                let points = [holder.stalls_at, Some(came + INSIST.0), Some(came + INSIST.1)];
                until = points.into_iter().flatten().filter(|at| *at > now).fold(until, Instant::min);
            }
        }
        match victim.and_then(|(_, at)| self.held.get(&at)) {
            Some(victim) => (Turn::Wait(came + rules.wait_max), Some(Arc::clone(&victim.leave))),
            None if hope => (Turn::Wait(until), None),
            None => (Turn::Refused, None),
        }
    }

    fn grant(&mut self, number: u64) -> Arc<Leave> {
        let leave = Arc::<Leave>::default();
        if let Some(me) = self.waiting.iter().find(|waiter| waiter.number == number) {
            if self.granted.len() == GRANTS_REMEMBERED {
                self.granted.pop_front();
            }
            self.granted.push_back(me.who.clone());
            let holder = Holder { who: me.who.clone(), stalls_at: None, leave: Arc::clone(&leave) };
            self.held.insert(number, holder);
        }
        leave
    }

    /// How much a caller has now, and had lately.
    fn load(&self, who: &Who) -> usize {
        let all = self.held.values().map(|holder| &holder.who).chain(&self.granted);
        all.map(|other| usize::from(other.client == who.client) + usize::from(other.network == who.network))
            .sum()
    }
}

impl Holder {
    fn is_leaving(&self) -> bool {
        self.leave.asked.load(Ordering::Acquire)
    }
}

/// How much more a holder has than a newcomer, by what they differ in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Excess {
    sum: i64,
    differ_in: i64,
}

impl Excess {
    /// Whether the newcomer would have no more than the holder if it got one of its places.
    fn over(self) -> bool {
        self.sum > self.differ_in
    }
}

/// Nothing if they are the same. What waits counts as had.
fn excess(
    holder: &Who,
    newcomer: &Who,
    held: &BTreeMap<u64, Holder>,
    waiting: &[(u64, Who)],
) -> Option<Excess> {
    let staying = held.values().filter(|holder| !holder.is_leaving()).map(|holder| &holder.who);
    let (mut excess, clients, networks) = (
        Excess { sum: 0, differ_in: 0 },
        holder.client != newcomer.client,
        holder.network != newcomer.network,
    );
    excess.differ_in = i64::from(clients) + i64::from(networks);
    if excess.differ_in == 0 {
        return None;
    }
    for one in staying.chain(waiting.iter().map(|(_, who)| who)) {
        if clients {
            excess.sum += i64::from(one.client == holder.client) - i64::from(one.client == newcomer.client);
        }
        if networks {
            excess.sum +=
                i64::from(one.network == holder.network) - i64::from(one.network == newcomer.network);
        }
    }
    Some(excess)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(client: &str, address: &str) -> Who {
        Who::new(Some(&ClientCode::new(client).unwrap()), address.parse().unwrap())
    }

    fn pool(scarce: Scarce, max: usize) -> Shares {
        Shares::new(scarce, max, &Arc::default())
    }

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_caller_of_ipv6_is_a_whole_64() {
        let check = |a: &str, b: &str, same: bool| {
            let of = |text: &str| Network::of(text.parse().unwrap());
            assert_eq!(of(a) == of(b), same, "{a} {b}");
        };
        check("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", true);
        check("2001:db8:1:2::1", "2001:db8:1:3::1", false);
        check("192.0.2.1", "::ffff:192.0.2.1", true);
        check("192.0.2.1", "192.0.2.2", false);
    }

    /// Who takes all places, who comes then, and after how many seconds it has one, if it gets any.
    #[tokio::test(start_paused = true)]
    async fn who_has_more_than_its_share_makes_room_and_nobody_else() {
        async fn check(
            holders: &[(&str, &str)],
            comes: (&str, &str),
            waits: Option<Duration>,
            within: Option<u64>,
        ) {
            let shares = pool(Scarce::Uploads, holders.len());
            let mut working = vec![];
            for (client, address) in holders {
                let place = shares.take(&who(client, address)).await.unwrap();
                working.push(tokio::spawn(async move {
                    let _waits = waits.map(|patience| place.waits(patience));
                    let error = place.asked_to_leave().await;
                    assert!(matches!(error, EngineError::MadeRoom(Scarce::Uploads)));
                }));
            }
            tokio::task::yield_now().await;
            let begun = Instant::now();
            let taken = shares.take(&who(comes.0, comes.1)).await;
            let case = format!("{holders:?} {comes:?} {waits:?}");
            let found = taken.is_ok().then(|| begun.elapsed().as_secs());
            assert_eq!(found, within, "{case}");
            let left = working.iter().filter(|one| one.is_finished()).count();
            assert_eq!(left, usize::from(within.is_some()), "{case}: one leaves, if any");
            working.iter().for_each(tokio::task::JoinHandle::abort);
        }
        let (one, two, six) = ("192.0.2.1", "192.0.2.2", "2001:db8::1");
        let greedy = [("a", one); 3];
        let stalls = Some(Duration::ZERO);
        // By client, by address, or both.
        check(&greedy, ("b", one), stalls, Some(0)).await;
        check(&greedy, ("a", two), stalls, Some(0)).await;
        check(&greedy, ("b", six), stalls, Some(0)).await;
        check(&greedy, ("a", one), stalls, None).await;
        // Those that are at work are let finish for a while.
        check(&greedy, ("b", one), Some(seconds(60)), Some(1)).await;
        check(&greedy, ("b", one), None, Some(5)).await;
        check(&greedy, ("a", one), None, None).await;
        // Each has one: only one that stalls makes room.
        let each = [("a", one), ("b", two), ("c", six)];
        check(&each, ("d", "192.0.2.4"), stalls, Some(0)).await;
        check(&each, ("d", "192.0.2.4"), Some(seconds(3)), Some(3)).await;
        check(&each, ("d", "192.0.2.4"), None, None).await;
        // Whoever makes up clients is known by its address.
        check(&[("x", one), ("y", one), ("z", one)], ("b", two), stalls, Some(0)).await;
        check(&[("a", one), ("a", two), ("a", six)], ("b", "192.0.2.4"), stalls, Some(0)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_stalls_longest_makes_room_and_the_greedy_do_not_push_out_the_modest() {
        let shares = pool(Scarce::Exports, 3);
        let [greedy, modest] = [who("a", "192.0.2.1"), who("b", "192.0.2.2")];
        let long = shares.take(&greedy).await.unwrap();
        let _long = long.waits(Duration::ZERO);
        tokio::time::advance(seconds(1)).await;
        let short = shares.take(&greedy).await.unwrap();
        let _short = short.waits(Duration::ZERO);
        let third = shares.take(&modest).await.unwrap();
        let _third = third.waits(Duration::ZERO);
        let comes = tokio::spawn({
            let shares = shares.clone();
            async move { shares.take(&who("c", "192.0.2.3")).await }
        });
        tokio::time::timeout(seconds(60), long.asked_to_leave()).await.unwrap();
        assert!(!short.is_asked_to_leave() && !third.is_asked_to_leave());
        drop(_long);
        drop(long);
        let _fourth = comes.await.unwrap().unwrap();
        // Each has one. Who has one already has no more made room for it.
        let again = tokio::time::timeout(seconds(60), shares.take(&greedy)).await.unwrap();
        assert!(matches!(again, Err(EngineError::Taken(Scarce::Exports, 3))));
        assert!(!short.is_asked_to_leave() && !third.is_asked_to_leave());
    }

    #[tokio::test(start_paused = true)]
    async fn turns_go_round_and_the_queue_is_shared_too() {
        let shares = pool(Scarce::DryRuns, 1);
        let [greedy, modest] = [who("a", "192.0.2.1"), who("b", "192.0.2.2")];
        let first = shares.take(&greedy).await.unwrap();
        let (done, mut order) = tokio::sync::mpsc::unbounded_channel();
        let queue = |who: &Who, name: &'static str| {
            let (shares, who, done) = (shares.clone(), who.clone(), done.clone());
            tokio::spawn(async move {
                match shares.take(&who).await {
                    Ok(place) => {
                        done.send(name).unwrap();
                        drop(place);
                    }
                    Err(error) => done
                        .send(if matches!(error, EngineError::MadeRoom(_)) { "made room" } else { "none" })
                        .unwrap(),
                }
            })
        };
        let mut waiting: Vec<_> = (0..8).map(|_| queue(&greedy, "greedy")).collect();
        tokio::task::yield_now().await;
        waiting.push(queue(&greedy, "greedy"));
        tokio::task::yield_now().await;
        assert_eq!(order.recv().await, Some("none"), "the queue is full");
        waiting.push(queue(&modest, "modest"));
        tokio::task::yield_now().await;
        assert_eq!(order.recv().await, Some("made room"));
        drop(first);
        assert_eq!(order.recv().await, Some("modest"), "who had none of late comes first");
        for _ in 0..7 {
            assert_eq!(order.recv().await, Some("greedy"));
        }
        for one in waiting {
            one.await.unwrap();
        }
        assert!(shares.0.state().waiting.is_empty() && shares.0.state().held.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_no_longer_waits_is_forgotten_and_fewer_places_hold_from_now_on() {
        let shares = pool(Scarce::Reports, 2);
        let one = shares.take(&who("a", "192.0.2.1")).await.unwrap();
        let two = shares.take(&who("a", "192.0.2.1")).await.unwrap();
        let other = who("b", "192.0.2.2");
        let waits = tokio::time::timeout(Duration::from_millis(500), shares.take(&other));
        assert!(waits.await.is_err());
        assert!(shares.0.state().waiting.is_empty());
        shares.resize(1);
        drop(one);
        assert!(matches!(
            shares.take(&who("a", "192.0.2.1")).await,
            Err(EngineError::Taken(Scarce::Reports, 1))
        ));
        drop(two.clone());
        assert!(!shares.0.state().held.is_empty(), "a copy holds it");
        drop(two);
        shares.all_free().await;
        drop(shares.take(&who("a", "192.0.2.1")).await.unwrap());
    }
}
