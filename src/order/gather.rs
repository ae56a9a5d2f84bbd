//! Gathers offers into records of the order.
//!
//! A broker's work is per record. So what is offered while one record is in flight waits, and goes together into the next
//! one, up to [`RECORD_BYTES`]. A second record goes only when the first takes long or when what waits fills a record.
//!
//! Promises:
//!
//! - Each offer gets a number, and numbers rise: they get into the log in this order. Whoever offers hears the number
//!   before the log can give the offer back.
//! - Each offer is told once where it is in the log, or why not. An offer that waits for longer than the deadline hears
//!   "out of reach" if it was not sent, and "unknown" if it was.
//! - What waits is bounded: [`Gatherer::offer`] waits for room.
//! - [`Gatherer::offer`] sends the record itself if none is in flight, so a single caller waits for no other thread.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_bytes::ByteBuf;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::record::{Offers, RunId};
use super::{Log, Offset, OrderError, Place};
use crate::model::seq::Clock;
use crate::sync::unpoisoned;

/// How many bytes of requests go into one record. A single request may be larger.
const RECORD_BYTES: usize = 256 * 1024;
/// The largest request. The topics take records of 2 MiB.
pub const REQUEST_BYTES_MAX: usize = 2 * 1024 * 1024 - 64 * 1024;
/// How many requests go into one record, so that a record of tiny ones is soon applied.
const RECORD_REQUESTS: usize = 4096;
/// How many records may be in flight. An idempotent producer of Kafka keeps the order of five.
const IN_FLIGHT_MAX: usize = 4;
/// How much may wait or be in flight, in KiB.
const ROOM_KIB: usize = 32 * 1024;
/// What an offer takes of that beside its bytes, in bytes.
const OFFER_BYTES: usize = 256;

/// What is told of an offer. Called once, from any thread; must not block.
pub type Told = Box<dyn FnOnce(Result<Place, OrderError>) + Send>;

/// How the gatherer gathers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gathering {
    /// How long the first offer waits for others, though no record is in flight. 0 to 3 ms: fewer records, longer waits.
    pub wait: Duration,
    /// How long a record may be in flight before the next one follows it.
    pub late: Duration,
    /// How long an offer may take in all.
    pub deadline: Duration,
}

impl Default for Gathering {
    fn default() -> Self {
        Self { wait: Duration::ZERO, late: Duration::from_millis(100), deadline: Duration::from_secs(10) }
    }
}

/// Gathers offers into records of a log.
pub struct Gatherer {
    shared: Arc<Shared>,
    room: Arc<Semaphore>,
}

struct Shared {
    log: Arc<dyn Log>,
    run: RunId,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// Something is due earlier than the timer thread thinks, or it should end.
    earlier: Condvar,
}

impl Gatherer {
    /// Starts gathering for a log, as the run that this id names. `clock` is the node's, which each record carries.
    pub fn start(
        log: Arc<dyn Log>,
        run: RunId,
        clock: Arc<dyn Clock>,
        gathering: Gathering,
    ) -> std::io::Result<Self> {
        let state = Mutex::new(State::new(gathering));
        let shared = Arc::new(Shared { log, run, clock, state, earlier: Condvar::new() });
        let timed = Arc::clone(&shared);
        std::thread::Builder::new().name("gather".into()).spawn(move || timed.keep_time())?;
        Ok(Self { shared, room: Arc::new(Semaphore::new(ROOM_KIB)) })
    }

    /// The run that offers.
    pub fn run(&self) -> RunId {
        self.shared.run
    }

    /// Offers a request. Waits until there is room for it. `note` hears the number that it gets, before anybody can read it.
    pub async fn offer(&self, request: Vec<u8>, note: impl FnOnce(u64), told: Told) {
        match Arc::clone(&self.room).acquire_many_owned(room_of(&request)).await {
            Ok(room) => self.take(request, room, note, told),
            Err(_) => told(Err(stopped())),
        }
    }

    /// The same, without waiting: if there is no room, the offer is told "out of reach".
    pub fn offer_now(&self, request: Vec<u8>, note: impl FnOnce(u64), told: Told) {
        match Arc::clone(&self.room).try_acquire_many_owned(room_of(&request)) {
            Ok(room) => self.take(request, room, note, told),
            Err(_) => told(Err(OrderError::OutOfReach("too many requests wait for the order".into()))),
        }
    }

    /// How many offers wait or are in flight.
    pub fn waiting(&self) -> usize {
        let state = self.shared.lock();
        state.waiting.len() + state.flights.iter().map(|flight| flight.offers.len()).sum::<usize>()
    }

    /// Takes no further offers. Those that were not sent are refused; those in flight are still told what became of them,
    /// while the deadline lasts.
    pub fn close(&self) {
        self.room.close();
        let refused = {
            let mut state = self.shared.lock();
            state.closed = true;
            state.waiting_bytes = 0;
            std::mem::take(&mut state.waiting)
        };
        self.shared.earlier.notify_all();
        for offer in refused {
            (offer.told)(Err(stopped()));
        }
    }

    fn take(&self, request: Vec<u8>, room: OwnedSemaphorePermit, note: impl FnOnce(u64), told: Told) {
        if request.len() > REQUEST_BYTES_MAX {
            let bytes = request.len();
            return told(Err(OrderError::Refused(format!(
                "the request has {bytes} bytes; a record of the order takes {REQUEST_BYTES_MAX}"
            ))));
        }
        let mut state = self.shared.lock();
        if state.closed {
            drop(state);
            return told(Err(stopped()));
        }
        note(state.add(request, told, room, Instant::now()));
        self.shared.send(state);
    }
}

impl Drop for Gatherer {
    fn drop(&mut self) {
        self.close();
    }
}

fn stopped() -> OrderError {
    OrderError::Refused("the node is stopping".into())
}

/// How much room a request takes, in KiB.
fn room_of(request: &[u8]) -> u32 {
    let kib = (request.len() + OFFER_BYTES).div_ceil(1024);
    u32::try_from(kib.min(ROOM_KIB)).unwrap_or(u32::MAX)
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        unpoisoned(self.state.lock())
    }

    /// Sends what is to go now. One thread does it at a time, so that records get into the log in the order of their numbers.
    fn send<'a>(self: &'a Arc<Self>, mut state: std::sync::MutexGuard<'a, State>) {
        if state.sending {
            return;
        }
        state.sending = true;
        while let Some(sent) = state.next(Instant::now()) {
            drop(state);
            self.append(sent);
            state = self.lock();
        }
        state.sending = false;
        if state.timer_sleeps_too_long() {
            self.earlier.notify_one();
        }
    }

    fn append(self: &Arc<Self>, sent: Sent) {
        let Sent { flight, first, requests } = sent;
        let offers = Offers { run: self.run, first, clock_ms: self.clock.now().0, requests };
        match offers.encode() {
            Ok(record) => {
                let landing = Arc::clone(self);
                self.log.append(b"", record, Box::new(move |outcome| landing.landed(flight, outcome)));
            }
            Err(error) => self.landed(flight, Err(OrderError::Refused(error.to_string()))),
        }
    }

    /// Tells the offers of a record what became of it, and sends what waited for it.
    fn landed(self: &Arc<Self>, flight: u64, outcome: Result<Offset, OrderError>) {
        let mut state = self.lock();
        let offers = state.land(flight);
        self.send(state);
        for (within, told) in offers {
            told(outcome.clone().map(|offset| Place { offset, within }));
        }
    }

    /// The timer thread: sends what waited long enough, and tells those who waited too long. Ends when the gatherer is
    /// closed and nothing is in flight.
    fn keep_time(self: Arc<Self>) {
        let mut state = self.lock();
        while !state.closed || !state.flights.is_empty() {
            let now = Instant::now();
            let overdue = state.overdue(now);
            if !overdue.is_empty() {
                drop(state);
                for (told, error) in overdue {
                    told(Err(error));
                }
                state = self.lock();
                continue;
            }
            if !state.sending && state.may_send(now) {
                self.send(state);
                state = self.lock();
                continue;
            }
            state.timer_until = state.due();
            state = match state.timer_until {
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    unpoisoned(self.earlier.wait_timeout(state, left)).0
                }
                None => unpoisoned(self.earlier.wait(state)),
            };
        }
    }
}

/// What waits and what is in flight. Pure: the time comes in.
struct State {
    gathering: Gathering,
    /// In the order of their numbers, which have no gaps.
    waiting: VecDeque<Offer>,
    waiting_bytes: usize,
    /// The oldest first.
    flights: VecDeque<Flight>,
    next_number: u64,
    next_flight: u64,
    /// A thread is sending; it looks again before it stops.
    sending: bool,
    /// Until when the timer thread sleeps; none if until it is woken.
    timer_until: Option<Instant>,
    closed: bool,
}

struct Offer {
    number: u64,
    request: Vec<u8>,
    told: Told,
    since: Instant,
    /// Given back once it was told.
    room: OwnedSemaphorePermit,
}

/// A record in flight.
struct Flight {
    id: u64,
    since: Instant,
    /// Those that were not told yet, with their numbers within the record; the oldest first.
    offers: VecDeque<(u32, InFlight)>,
}

struct InFlight {
    told: Told,
    since: Instant,
    _room: OwnedSemaphorePermit,
}

/// A record that is to be sent.
struct Sent {
    flight: u64,
    first: u64,
    requests: Vec<ByteBuf>,
}

impl State {
    fn new(gathering: Gathering) -> Self {
        Self {
            gathering,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            flights: VecDeque::new(),
            next_number: 1,
            next_flight: 0,
            sending: false,
            timer_until: None,
            closed: false,
        }
    }

    fn add(&mut self, request: Vec<u8>, told: Told, room: OwnedSemaphorePermit, now: Instant) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        self.waiting_bytes += request.len();
        self.waiting.push_back(Offer { number, request, told, since: now, room });
        number
    }

    /// Whether what waits fills a record.
    fn is_full(&self) -> bool {
        self.waiting_bytes >= RECORD_BYTES || self.waiting.len() >= RECORD_REQUESTS
    }

    /// Since when the oldest offer waits.
    fn oldest(&self) -> Option<Instant> {
        self.waiting.front().map(|offer| offer.since)
    }

    /// When the next record goes if nothing else happens; none if something must happen first.
    fn goes_at(&self) -> Option<Instant> {
        let oldest = self.oldest()?;
        match self.flights.back() {
            None if self.is_full() => Some(oldest),
            None => Some(oldest + self.gathering.wait),
            Some(_) if self.flights.len() >= IN_FLIGHT_MAX => None,
            Some(last) if self.is_full() => Some(last.since),
            Some(last) => Some(last.since + self.gathering.late),
        }
    }

    fn may_send(&self, now: Instant) -> bool {
        self.goes_at().is_some_and(|at| at <= now)
    }

    /// Takes the record that is to go now, if one is.
    fn next(&mut self, now: Instant) -> Option<Sent> {
        if !self.may_send(now) {
            return None;
        }
        let first = self.waiting.front()?.number;
        let (mut requests, mut offers, mut bytes) = (Vec::new(), VecDeque::new(), 0);
        while let Some(offer) = self.waiting.pop_front() {
            let is_first = requests.is_empty();
            if !is_first && (bytes + offer.request.len() > RECORD_BYTES || requests.len() >= RECORD_REQUESTS)
            {
                self.waiting.push_front(offer);
                break;
            }
            bytes += offer.request.len();
            let within = u32::try_from(requests.len()).unwrap_or(u32::MAX);
            requests.push(ByteBuf::from(offer.request));
            offers.push_back((within, InFlight { told: offer.told, since: offer.since, _room: offer.room }));
        }
        self.waiting_bytes = self.waiting_bytes.saturating_sub(bytes);
        let id = self.next_flight;
        self.next_flight += 1;
        self.flights.push_back(Flight { id, since: now, offers });
        Some(Sent { flight: id, first, requests })
    }

    /// The offers of a record that is not in flight any more, with their numbers within it.
    fn land(&mut self, flight: u64) -> Vec<(u32, Told)> {
        let Some(index) = self.flights.iter().position(|it| it.id == flight) else { return vec![] };
        let Some(flight) = self.flights.remove(index) else { return vec![] };
        flight.offers.into_iter().map(|(within, offer)| (within, offer.told)).collect()
    }

    /// Takes the offers that have waited for longer than the deadline. A record all of whose offers have is given up.
    fn overdue(&mut self, now: Instant) -> Vec<(Told, OrderError)> {
        let deadline = self.gathering.deadline;
        let is_over = |since: Instant| now.saturating_duration_since(since) >= deadline;
        let seconds = deadline.as_secs_f32();
        let mut overdue = Vec::new();
        for flight in &mut self.flights {
            while flight.offers.front().is_some_and(|(_, offer)| is_over(offer.since)) {
                let error = OrderError::Unknown(format!("no answer came from the log within {seconds} s"));
                overdue.extend(flight.offers.pop_front().map(|(_, offer)| (offer.told, error)));
            }
        }
        self.flights.retain(|flight| !flight.offers.is_empty());
        while let Some(offer) = self.waiting.pop_front() {
            if !is_over(offer.since) {
                self.waiting.push_front(offer);
                break;
            }
            self.waiting_bytes = self.waiting_bytes.saturating_sub(offer.request.len());
            let error = OrderError::OutOfReach(format!("it could not be sent to the log within {seconds} s"));
            overdue.push((offer.told, error));
        }
        overdue
    }

    /// When the timer has to look next; none if not before something happens.
    fn due(&self) -> Option<Instant> {
        let in_flight =
            self.flights.iter().filter_map(|flight| flight.offers.front().map(|(_, it)| it.since));
        let deadline = in_flight.chain(self.oldest()).min().map(|since| since + self.gathering.deadline);
        // A thread that is sending looks by itself.
        let goes_at = if self.sending { None } else { self.goes_at() };
        deadline.into_iter().chain(goes_at).min()
    }

    fn timer_sleeps_too_long(&self) -> bool {
        match (self.due(), self.timer_until) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(due), Some(until)) => due < until,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::seq::Millis;
    use crate::order::memory::{Fate, MemoryLog};
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::mpsc;

    const SECOND: Duration = Duration::from_secs(1);

    struct Set(Millis);

    impl Clock for Set {
        fn now(&self) -> Millis {
            self.0
        }
    }

    struct Bench {
        log: MemoryLog,
        gatherer: Gatherer,
        tell: mpsc::Sender<(u64, Result<Place, OrderError>)>,
        told: mpsc::Receiver<(u64, Result<Place, OrderError>)>,
    }

    impl Bench {
        fn new(gathering: Gathering) -> Self {
            let log = MemoryLog::new();
            let clock = Arc::new(Set(Millis(5)));
            let gatherer = Gatherer::start(Arc::new(log.clone()), RunId([1; 16]), clock, gathering).unwrap();
            let (tell, told) = mpsc::channel();
            Self { log, gatherer, tell, told }
        }

        /// Offers this; gives its number, 0 if it was not taken.
        fn offer(&self, request: &[u8]) -> u64 {
            offer(&self.gatherer, &self.tell, request)
        }

        fn next_told(&self) -> (u64, Result<Place, OrderError>) {
            self.told.recv_timeout(60 * SECOND).expect("an offer that nobody was told of")
        }

        /// How many requests each record has, and the number of the first.
        fn records(&self) -> Vec<(u64, usize)> {
            let records = self.log.records();
            let offered = records.iter().map(|record| Offers::decode(&record.value).unwrap());
            offered.map(|it| (it.first, it.requests.len())).collect()
        }
    }

    fn offer(
        gatherer: &Gatherer,
        tell: &mpsc::Sender<(u64, Result<Place, OrderError>)>,
        request: &[u8],
    ) -> u64 {
        let tell = tell.clone();
        let number = Arc::new(AtomicU64::new(0));
        let noted = Arc::clone(&number);
        let told: Told = Box::new(move |outcome| tell.send((noted.load(Ordering::SeqCst), outcome)).unwrap());
        gatherer.offer_now(request.to_vec(), |it| number.store(it, Ordering::SeqCst), told);
        number.load(Ordering::SeqCst)
    }

    /// As by default, with nothing that depends on the time.
    fn patient() -> Gathering {
        Gathering { wait: Duration::ZERO, late: 600 * SECOND, deadline: 600 * SECOND }
    }

    fn place(offset: u64, within: u32) -> Result<Place, OrderError> {
        Ok(Place { offset: Offset(offset), within })
    }

    #[test]
    fn what_comes_while_a_record_is_in_flight_goes_into_the_next() {
        let bench = Bench::new(patient());
        bench.log.next_appends([Fate::Hold, Fate::Hold]);
        for request in [b"a", b"b", b"c"] {
            bench.offer(request);
        }
        assert_eq!((bench.log.held(), bench.gatherer.waiting()), (1, 3));
        bench.log.release(1);
        assert_eq!(bench.next_told(), (1, place(0, 0)));
        assert_eq!(bench.log.held(), 1, "the next goes once the first has landed");
        bench.log.release(1);
        assert_eq!([bench.next_told(), bench.next_told()], [(2, place(1, 0)), (3, place(1, 1))]);
        assert_eq!(bench.records(), [(1, 1), (2, 2)]);
        let offered = Offers::decode(&bench.log.records()[1].value).unwrap();
        assert_eq!((offered.run, offered.clock_ms), (RunId([1; 16]), 5));
        assert_eq!(offered.requests, [b"b", b"c"]);
        assert_eq!(bench.gatherer.waiting(), 0);
    }

    #[test]
    fn a_second_record_goes_when_it_is_full_and_a_fifth_never() {
        let bench = Bench::new(patient());
        bench.log.next_appends([Fate::Hold]);
        bench.offer(b"first");
        let big = vec![0; RECORD_BYTES / 2];
        for _ in 0..12 {
            bench.offer(&big);
        }
        assert_eq!(bench.log.held(), IN_FLIGHT_MAX);
        while bench.gatherer.waiting() > 0 {
            bench.log.release(1);
        }
        assert_eq!(bench.records(), [(1, 1), (2, 2), (4, 2), (6, 2), (8, 2), (10, 2), (12, 2)]);
    }

    #[test]
    fn a_second_record_goes_when_the_first_is_late() {
        let bench = Bench::new(Gathering { late: Duration::from_millis(20), ..patient() });
        bench.log.next_appends([Fate::Hold]);
        bench.offer(b"a");
        bench.offer(b"b");
        until(|| bench.log.held() == 2);
        bench.log.release(2);
        assert_eq!([bench.next_told(), bench.next_told()], [(1, place(0, 0)), (2, place(1, 0))]);
    }

    #[test]
    fn the_first_may_wait_for_others() {
        let bench = Bench::new(Gathering { wait: Duration::from_millis(50), ..patient() });
        let from = Instant::now();
        for request in [b"a", b"b", b"c"] {
            bench.offer(request);
        }
        let in_time = from.elapsed() < Duration::from_millis(50);
        for within in 0..3 {
            let (number, outcome) = bench.next_told();
            assert!(outcome.is_ok());
            if in_time {
                assert_eq!((number, outcome), (u64::from(within) + 1, place(0, within)));
            }
        }
        assert!(from.elapsed() >= Duration::from_millis(50));
    }

    #[test]
    fn each_offer_is_told_what_became_of_its_record() {
        let bench = Bench::new(patient());
        bench.log.next_appends([Fate::Refuse, Fate::LoseAcknowledgement, Fate::Vanish, Fate::Twice]);
        for _ in 0..5 {
            bench.offer(b"x");
        }
        assert!(matches!(bench.next_told(), (1, Err(OrderError::Refused(_)))));
        assert!(matches!(bench.next_told(), (2, Err(OrderError::Unknown(_)))));
        assert!(matches!(bench.next_told(), (3, Err(OrderError::Unknown(_)))));
        assert_eq!(bench.next_told(), (4, place(1, 0)));
        assert_eq!(bench.next_told(), (5, place(3, 0)));
        assert_eq!(bench.records(), [(2, 1), (4, 1), (4, 1), (5, 1)]);
        bench.log.set_out_of_reach(true);
        bench.offer(b"x");
        assert!(matches!(bench.next_told(), (6, Err(OrderError::OutOfReach(_)))));
    }

    #[test]
    fn who_waits_too_long_hears_whether_it_was_sent() {
        let bench = Bench::new(Gathering { deadline: Duration::from_millis(50), ..patient() });
        bench.log.next_appends([Fate::Hold]);
        bench.offer(b"sent");
        bench.offer(b"not sent");
        assert!(matches!(bench.next_told(), (1, Err(OrderError::Unknown(_)))));
        assert!(matches!(bench.next_told(), (2, Err(OrderError::OutOfReach(_)))));
        // The acknowledgement comes after all; nobody is told twice, and what comes next is sent.
        bench.log.release(1);
        bench.offer(b"next");
        assert_eq!(bench.next_told(), (3, place(1, 0)));
        assert_eq!(bench.records(), [(1, 1), (3, 1)]);
        assert!(bench.told.try_recv().is_err());
    }

    #[test]
    fn what_waits_is_bounded() {
        let bench = Bench::new(patient());
        bench.log.next_appends([Fate::Hold]);
        let big = vec![0; 1024 * 1024];
        let mut taken = 0;
        while bench.offer(&big) > 0 {
            taken += 1;
        }
        assert_eq!(taken, 31);
        assert!(matches!(bench.next_told(), (0, Err(OrderError::OutOfReach(_)))));

        // Whoever may wait gets room as soon as there is some.
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let log = bench.log.clone();
        let release = std::thread::spawn(move || {
            for _ in 0..40 {
                log.release(1);
                std::thread::yield_now();
            }
        });
        let tell = bench.tell.clone();
        let told: Told = Box::new(move |outcome| tell.send((99, outcome)).unwrap());
        runtime.block_on(bench.gatherer.offer(big, |_| {}, told));
        release.join().unwrap();
        bench.log.release(40);
        until(|| bench.next_told().0 == 99);
    }

    #[test]
    fn a_request_that_fits_no_record_is_refused() {
        let bench = Bench::new(patient());
        bench.offer(&vec![0; REQUEST_BYTES_MAX + 1]);
        assert!(matches!(bench.next_told(), (0, Err(OrderError::Refused(_)))));
        bench.offer(&vec![0; REQUEST_BYTES_MAX]);
        assert_eq!(bench.next_told(), (1, place(0, 0)));
        assert!(bench.log.records()[0].value.len() < 2 * 1024 * 1024);
    }

    #[test]
    fn a_stop_refuses_what_was_not_sent() {
        let bench = Bench::new(patient());
        bench.log.next_appends([Fate::Hold]);
        bench.offer(b"sent");
        bench.offer(b"not sent");
        bench.gatherer.close();
        assert!(matches!(bench.next_told(), (2, Err(OrderError::Refused(_)))));
        bench.offer(b"too late");
        assert!(bench.next_told().1.is_err());
        bench.log.release(1);
        assert_eq!(bench.next_told(), (1, place(0, 0)));
    }

    #[test]
    fn many_threads_offer_and_the_log_has_all_in_the_order_of_their_numbers() {
        let bench = Bench::new(Gathering::default());
        let (threads, each) = (8, 500);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                let (gatherer, tell) = (&bench.gatherer, bench.tell.clone());
                scope.spawn(move || {
                    for _ in 0..each {
                        offer(gatherer, &tell, b"request");
                    }
                });
            }
        });
        let mut told: Vec<_> = (0..threads * each).map(|_| bench.next_told()).collect();
        told.sort_by_key(|(number, _)| *number);
        assert!(told.is_sorted_by_key(|(_, place)| place.clone().unwrap()));
        let (mut next, records) = (1, bench.records());
        for (first, requests) in records {
            assert_eq!(first, next);
            next += requests as u64;
        }
        assert_eq!(next, threads * each + 1);
    }

    /// Waits until it is so.
    fn until(mut is_so: impl FnMut() -> bool) {
        let from = Instant::now();
        while !is_so() {
            assert!(from.elapsed() < 60 * SECOND, "it never came");
            std::thread::yield_now();
        }
    }
}
