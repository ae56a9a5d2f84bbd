//! Passes the changes of all clients on to a topic that others read.
//!
//! The first node that serves, of those that have the topic in their settings, reads its own feed of changes and appends each event, in the
//! order of seqs. It notes in the topic of the nodes up to which place all are acknowledged. Another node that takes over, and a node
//! that starts again, go on there.
//!
//! Promises:
//! - Every event gets into the topic at least once. What the feed can no longer tell is an event of its own, and an error in the log.
//! - The events of one key are in order. After a change of nodes some may come again.
//! - A topic that is slow or away costs nobody else anything: this is a thread of its own, and what is on its way is bounded.

use super::flight::Flight;
use super::join::append;
use crate::engine::read::changes::{ChangePlace, Changes, Event, Step, What, Written};
use crate::engine::{Engine, EngineError};
use crate::model::id::Key;
use crate::model::seq::{Millis, Seq};
use crate::order::record::ClusterId;
use crate::order::topic::{EventTopic, EventWriter};
use crate::order::{Log, OrderError};
use crate::sync::unpoisoned;
use crate::telemetry::Seldom;
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Writes an event as the topic has it: as the feed over HTTP, and with its client. It stands above this module.
pub type WriteEvent = fn(&Event, &mut Vec<u8>);

/// How often it is noted how far all is acknowledged, and looked whether it still is for this node to pass changes on.
const TEND_EVERY: Duration = Duration::from_millis(500);
/// How often a node looks whether it is its turn.
const TURN_LOOK: Duration = Duration::from_millis(250);
/// How often it looks for further changes.
const NEWS_LOOK: Duration = Duration::from_millis(20);
/// How long one wait for room is, so that a stop and another node's turn are noticed.
const ROOM_LOOK: Duration = Duration::from_millis(100);
/// How long it waits after a failure, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// How long the end of a turn waits for what is on its way, so that it need not come again.
const REST: Duration = Duration::from_millis(500);
/// How long one read of the noted place may wait for a record.
const READ_WITHIN: Duration = Duration::from_secs(10);
/// A topic that takes nothing for so long is worth a line in the log, and so often.
const STUCK: Duration = Duration::from_secs(60);

/// Whose turn it is to pass changes on.
pub(super) trait Turns {
    /// Which order it is.
    fn cluster(&self) -> ClusterId;

    /// Whether it is this node's turn for this topic.
    fn is_mine(&self, topic: &str) -> bool;

    /// Waits for so long, or until the node stops. Gives whether to go on.
    fn wait(&self, time: Duration) -> bool;
}

/// Where changes go, and how that is.
pub(super) struct Outlet {
    topic: Arc<dyn EventTopic>,
    write: WriteEvent,
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    /// When the oldest change was that this node has yet to pass on.
    behind_since: Option<Millis>,
    fault: Option<String>,
    ended: bool,
}

impl Outlet {
    pub(super) fn new(topic: Arc<dyn EventTopic>, write: WriteEvent) -> Self {
        Self { topic, write, state: Mutex::default(), ended: Condvar::new() }
    }

    /// The topic's name.
    pub(super) fn name(&self) -> &str {
        self.topic.name()
    }

    /// How old the oldest change is that this node has yet to pass on.
    pub(super) fn behind(&self, now: Millis) -> Duration {
        let since = unpoisoned(self.state.lock()).behind_since;
        since.map_or(Duration::ZERO, |since| Duration::from_millis(now.0.saturating_sub(since.0)))
    }

    /// Why changes are not passed on now.
    pub(super) fn fault(&self) -> Option<String> {
        unpoisoned(self.state.lock()).fault.clone()
    }

    /// Waits until [`Self::run`] has ended, for so long at most.
    pub(super) fn wait_for_end(&self, at_most: Duration) {
        let state = unpoisoned(self.state.lock());
        drop(self.ended.wait_timeout_while(state, at_most, |state| !state.ended));
    }

    /// Passes changes on whenever it is this node's turn, until the node stops.
    pub(super) fn run(&self, engine: &Engine, nodes: &dyn Log, turns: &dyn Turns) {
        let (mut pause, mut seldom) = (AGAIN.0, Seldom::every(STUCK));
        while turns.wait(Duration::ZERO) {
            if !turns.is_mine(self.name()) {
                self.note(|state| (state.behind_since, state.fault) = (None, None));
                turns.wait(TURN_LOOK);
                continue;
            }
            let from = Instant::now();
            if let Err(error) = self.turn(engine, nodes, turns)
                && turns.wait(Duration::ZERO)
            {
                if from.elapsed() > AGAIN.1 {
                    pause = AGAIN.0;
                }
                if let Some(unsaid) = seldom.tell() {
                    tracing::warn!(topic = self.name(), %error, unsaid, "changes are not passed on now: it is tried again");
                }
                let now = engine.now();
                self.note(|state| {
                    state.fault = Some(format!("{}: no changes go there: {error}", self.name()));
                    state.behind_since = state.behind_since.or(Some(now));
                });
                turns.wait(pause);
                pause = (pause * 2).min(AGAIN.1);
            }
        }
        self.note(|state| state.ended = true);
        self.ended.notify_all();
    }

    fn note(&self, change: impl FnOnce(&mut State)) {
        let mut state = unpoisoned(self.state.lock());
        change(&mut state);
    }

    /// Passes changes on for as long as it is this node's turn.
    fn turn(&self, engine: &Engine, nodes: &dyn Log, turns: &dyn Turns) -> Result<(), TurnError> {
        let note = Note { nodes, topic: self.name(), cluster: turns.cluster().to_string() };
        let place = note.read()?.unwrap_or(ChangePlace::behind(Seq::ZERO));
        let writer = self.topic.open()?;
        tracing::info!(topic = self.name(), after = %place, "this node passes changes on");
        let mut turn = Turn {
            outlet: self,
            engine,
            turns,
            note,
            writer,
            flight: Flight::from(place),
            rest: None,
            noted: place,
            landed: place,
            moved: Instant::now(),
            tended: Instant::now(),
            stuck: Seldom::every(STUCK),
            line: vec![],
        };
        let ended = turn.pass_on(place);
        turn.flight.wait_for_rest(REST);
        turn.note_landed();
        ended
    }
}

/// Why a turn ended early.
#[derive(Debug, thiserror::Error)]
enum TurnError {
    #[error(transparent)]
    Topic(#[from] OrderError),
    #[error(transparent)]
    Feed(#[from] EngineError),
}

/// What a node needs while it passes changes on.
struct Turn<'t> {
    outlet: &'t Outlet,
    engine: &'t Engine,
    turns: &'t dyn Turns,
    note: Note<'t>,
    writer: Box<dyn EventWriter>,
    flight: Arc<Flight>,
    /// When the oldest change was, as far as is known, that is not on its way yet.
    rest: Option<Millis>,
    /// The place that was noted last.
    noted: ChangePlace,
    /// Up to where all was acknowledged when that was looked at last, and when that moved.
    landed: ChangePlace,
    moved: Instant,
    tended: Instant,
    stuck: Seldom,
    /// Room for one event in JSON.
    line: Vec<u8>,
}

impl Turn<'_> {
    /// Passes on what comes after a place, and goes on behind what can no longer be told.
    fn pass_on(&mut self, mut place: ChangePlace) -> Result<(), TurnError> {
        loop {
            let ended = match self.engine.all_changes(place) {
                Ok(mut feed) => {
                    let ended = self.follow(&mut feed);
                    place = feed.told();
                    ended
                }
                Err(error) => Err(error.into()),
            };
            let Err(TurnError::Feed(EngineError::ChangesGone { earliest, .. })) = ended else { return ended };
            let behind = ChangePlace::behind(earliest);
            // Else it would not get on.
            if earliest < place.seq || behind == place {
                return ended;
            }
            tracing::error!(
                topic = self.outlet.name(), after = %place, up_to = %behind,
                "changes are missing in the topic: this node no longer has them"
            );
            let gap = Event { place: behind, what: What::Gap { since: place } };
            if self.event(&gap).is_break() {
                return self.has_failed();
            }
            place = behind;
        }
    }

    /// Passes on what a feed tells, until it is no longer this node's turn.
    fn follow(&mut self, feed: &mut Changes) -> Result<(), TurnError> {
        let mut news = feed.news();
        let (told, last) = (feed.told().seq, news.borrow().last);
        if Seq::ZERO < told && told < last {
            self.rest = self.rest.or(Some(told.millis()));
        }
        loop {
            news.mark_unchanged();
            match feed.step(&mut |event| self.event(&event))? {
                Step::More if self.tend() => continue,
                Step::More => return Ok(()),
                Step::Enough => return self.has_failed(),
                Step::CaughtUp(_) => {
                    self.flight.pass(feed.told());
                    self.rest = None;
                }
                Step::Waits(batch) => self.rest = Some(batch.seq.millis()),
            }
            while !news.has_changed().unwrap_or(true) {
                self.has_failed()?;
                if !self.tend() || !self.turns.wait(NEWS_LOOK) {
                    return Ok(());
                }
            }
        }
    }

    /// Sends an event on its way. Breaks off if one has failed, or if it is no longer this node's turn.
    fn event(&mut self, event: &Event) -> ControlFlow<()> {
        match &event.what {
            // Each of them is another visitor.
            What::Swept(ids) if ids.len() > 1 => ids.iter().try_for_each(|id| {
                let what = What::Swept(vec![id.clone()]);
                self.send(&Event { place: event.place, what })
            }),
            _ => self.send(event),
        }
    }

    fn send(&mut self, event: &Event) -> ControlFlow<()> {
        loop {
            if !self.tend() {
                return ControlFlow::Break(());
            }
            match self.flight.has_room(ROOM_LOOK) {
                Ok(true) => break,
                Ok(false) => {}
                Err(_) => return ControlFlow::Break(()),
            }
        }
        self.line.clear();
        (self.outlet.write)(event, &mut self.line);
        let keys = keys(event);
        let done = self.flight.begin(event.place, self.line.len() * keys.len(), keys.len());
        for key in keys {
            self.writer.append(key.as_deref().map(str::as_bytes), &self.line, done());
        }
        ControlFlow::Continue(())
    }

    /// An error if an event has failed.
    fn has_failed(&self) -> Result<(), TurnError> {
        self.flight.has_room(Duration::ZERO)?;
        Ok(())
    }

    /// Notes now and then how far it is. Gives whether it still is this node's turn.
    fn tend(&mut self) -> bool {
        if self.tended.elapsed() < TEND_EVERY {
            return true;
        }
        self.tended = Instant::now();
        self.note_landed();
        let (landed, oldest) = (self.flight.landed(), self.flight.oldest());
        let behind_since = oldest.or(self.rest);
        if landed != self.landed || oldest.is_none() {
            (self.landed, self.moved) = (landed, Instant::now());
        }
        let stuck = self.moved.elapsed();
        self.outlet.note(|state| {
            state.behind_since = behind_since;
            state.fault = (stuck >= STUCK).then(|| {
                format!("{}: it has taken no changes for {} s", self.outlet.name(), stuck.as_secs())
            });
        });
        if stuck >= STUCK && self.stuck.tell().is_some() {
            let seconds = stuck.as_secs();
            tracing::warn!(topic = self.outlet.name(), seconds, "the topic takes no changes");
        }
        self.turns.wait(Duration::ZERO) && self.turns.is_mine(self.outlet.name())
    }

    /// Notes up to where all is acknowledged, if that moved.
    fn note_landed(&mut self) {
        let landed = self.flight.landed();
        if landed != self.noted {
            match self.note.write(landed) {
                Ok(()) => self.noted = landed,
                Err(error) => {
                    tracing::debug!(%error, "how far changes were passed on could not be noted")
                }
            }
        }
    }
}

/// The keys under which an event goes: its visitor's canonical id. An event about several ids goes under each of them, and one that
/// concerns every visitor has none, so that it goes to every partition.
fn keys(event: &Event) -> Vec<Option<String>> {
    let of = |id: &Key| Some(format!("{}/{}/{}", id.client(), id.kind().name(), id.id()));
    let of_client = || vec![event.client().map(str::to_owned)];
    match &event.what {
        What::Write(Written { id, .. }) | What::Left { id, .. } => vec![of(id)],
        What::Row(row) => match row.visitor.as_ref().or(row.id.as_ref()) {
            Some(id) => vec![of(id)],
            None => of_client(),
        },
        What::Withheld(_, ids) if ids.is_empty() => of_client(),
        What::Erased(ids) | What::Swept(ids) | What::Withheld(_, ids) => ids.iter().map(of).collect(),
        What::Batch(_) | What::BatchEnd(..) | What::Gap { .. } => vec![None],
    }
}

/// How far changes were passed on, as noted among the reports of the nodes.
struct Note<'n> {
    nodes: &'n dyn Log,
    topic: &'n str,
    cluster: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Noted {
    changes_topic: String,
    cluster: String,
    /// Every event up to this place is in the topic.
    passed_on: String,
}

impl Note<'_> {
    /// The record's key. No node's name has a slash.
    fn key(&self) -> String {
        format!("changes/{}", self.topic)
    }

    fn write(&self, place: ChangePlace) -> Result<(), OrderError> {
        let (changes_topic, cluster) = (self.topic.to_owned(), self.cluster.clone());
        let noted = Noted { changes_topic, cluster, passed_on: place.to_string() };
        let bytes = serde_json::to_vec(&noted).map_err(|error| OrderError::Refused(error.to_string()))?;
        append(self.nodes, self.key().as_bytes(), bytes).map(drop)
    }

    /// The place that was noted last; none if none was, or only in another order.
    fn read(&self) -> Result<Option<ChangePlace>, OrderError> {
        let (low, end) = self.nodes.ends()?;
        let (mut place, key) = (None, self.key());
        if low == end {
            return Ok(place);
        }
        let mut reader = self.nodes.read_from(low)?;
        // The log may lack records before its end. But the nodes report all the time, so that one from behind it comes soon.
        loop {
            let record = reader.next(READ_WITHIN)?;
            let record = record.ok_or_else(|| OrderError::OutOfReach("no report comes".into()))?;
            if record.offset >= end {
                return Ok(place);
            }
            if record.key == key.as_bytes()
                && let Ok(noted) = serde_json::from_slice::<Noted>(&record.value)
                && noted.cluster == self.cluster
            {
                place = ChangePlace::parse(&noted.passed_on);
            }
            if record.offset.next() >= end {
                return Ok(place);
            }
        }
    }
}
