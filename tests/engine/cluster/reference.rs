//! What each request of the order must come to: the model of the order tests, which applies a request the moment it has its
//! place.
//!
//! Promises: it knows nodes only by their offers. It decides from the record's time, the offering clock and the requests
//! before, and from nothing else.

use super::coverage::{Met, met};
use crate::order::core::{file_of, made_for, named, names, rows_of};
use crate::order::model::{self, From, Id, Kind, Rules, Visitors};
use crate::order::ops::{Batch, Call, DAY_MS, Settings, id};
use profiled::model::batch::Counts;
use profiled::order::Place;
use profiled::order::record::RunId;
use profiled::tokens::TokenChange;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// How long an idempotency key lasts.
const KEY_LASTS_MS: u64 = DAY_MS;

/// What a node offered.
#[derive(Debug, Clone)]
pub(crate) enum Offer {
    /// A call, under the settings of that node; a batch perhaps with a key.
    Call { client: usize, call: Call, settings: Settings, key: Option<u8> },
    /// The sweep of what has expired by this lifetime.
    Sweep { client: usize, ids: Vec<Id>, lifetime_ms: u64 },
    /// The count of a batch.
    Count { seq: u64, counts: Counts },
    /// A change of the tokens.
    Token(TokenChange),
}

/// What a request comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Expected {
    /// It stood in the order before.
    Duplicate,
    /// A write; the pcId that was given to the visitor.
    Written { came: model::Came, seq: u64, pc: Option<String> },
    /// An erasure, of a visitor who was known or not.
    Erased { known: bool, seq: u64 },
    /// A batch with this seq.
    Accepted(u64),
    /// The batch with this seq was the same.
    Before(u64),
    /// The batch with this seq took the key.
    Taken(u64),
    /// A sweep or a count.
    Done,
    /// A change of the tokens.
    Token,
}

/// The state behind one request.
pub(crate) struct Step {
    pub(crate) place: Place,
    pub(crate) expected: Expected,
    pub(crate) visitors: Rc<[Visitors; 2]>,
    pub(crate) tokens: Rc<Tokens>,
    pub(crate) last_seq: u64,
}

/// The ids of the tokens, and which of them are revoked.
pub(crate) type Tokens = BTreeMap<String, bool>;

/// A batch that has its place, and what became of its rows.
pub(crate) struct Sent {
    pub(crate) client: usize,
    pub(crate) seq: u64,
    pub(crate) rows: Vec<model::Row>,
    pub(crate) became: Vec<model::Outcome>,
    /// The step that accepted it.
    pub(crate) accepted: usize,
    /// The step that counted it, and its time.
    pub(crate) counted: Option<(usize, u64)>,
}

impl Sent {
    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        self.became.iter().for_each(|became| counts.add(crate::order::core::outcome(*became)));
        counts
    }
}

struct Keyed {
    seq: u64,
    file: String,
    v2: bool,
    removes: bool,
    as_of_ms: Option<u64>,
}

/// The model, as far as the order goes.
#[derive(Default)]
pub(crate) struct Reference {
    pub(crate) steps: Vec<Step>,
    at: BTreeMap<Place, usize>,
    visitors: Rc<[Visitors; 2]>,
    tokens: Rc<Tokens>,
    pub(crate) last_seq: u64,
    /// The highest number of each run, and all that had a place.
    seen: BTreeMap<RunId, u64>,
    placed: BTreeSet<(RunId, u64)>,
    pub(crate) sent: Vec<Sent>,
    keys: BTreeMap<(usize, u8), Keyed>,
}

impl Reference {
    /// The step of the request at a place.
    pub(crate) fn step_at(&self, place: Place) -> Option<usize> {
        self.at.get(&place).copied()
    }

    /// A request has its place.
    pub(crate) fn place(
        &mut self,
        place: Place,
        time_ms: u64,
        (run, number): (RunId, u64),
        offer: &Offer,
    ) -> Result<(), String> {
        let expected = if self.seen.get(&run).is_some_and(|seen| number <= *seen) {
            let before = self.placed.contains(&(run, number));
            met(if before { Met::Duplicate } else { Met::LateBehindItsRun });
            Expected::Duplicate
        } else {
            self.seen.insert(run, number);
            self.apply(time_ms, offer)?
        };
        self.placed.insert((run, number));
        self.at.insert(place, self.steps.len());
        let (visitors, tokens) = (Rc::clone(&self.visitors), Rc::clone(&self.tokens));
        self.steps.push(Step { place, expected, visitors, tokens, last_seq: self.last_seq });
        Ok(())
    }

    fn next_seq(&mut self, time_ms: u64) -> u64 {
        if time_ms < model::millis(self.last_seq) {
            met(Met::TimeSteppedBack);
        }
        self.last_seq = model::next_seq(self.last_seq, time_ms);
        self.last_seq
    }

    fn apply(&mut self, time_ms: u64, offer: &Offer) -> Result<Expected, String> {
        match offer {
            Offer::Call { client, call: Call::Batch(batch), settings, key } => {
                Ok(self.batch(time_ms, *client, batch, settings, *key))
            }
            Offer::Call { client, call, settings, .. } => Ok(self.call(time_ms, *client, call, settings)),
            Offer::Sweep { client, ids, lifetime_ms } => {
                let mut swept = false;
                let visitors = &mut Rc::make_mut(&mut self.visitors)[*client];
                for id in ids {
                    swept |= visitors.sweep(id, time_ms, *lifetime_ms);
                }
                met(if swept { Met::Swept } else { Met::SweptInVain });
                Ok(Expected::Done)
            }
            Offer::Token(change) => {
                let tokens = Rc::make_mut(&mut self.tokens);
                match change {
                    TokenChange::Add(token) => {
                        met(Met::TokenMade);
                        tokens.entry(token.id.clone()).or_default();
                    }
                    TokenChange::Revoke { id, .. } => {
                        if let Some(revoked) = tokens.get_mut(id) {
                            met(Met::TokenRevoked);
                            *revoked = true;
                        }
                    }
                }
                Ok(Expected::Token)
            }
            Offer::Count { seq, counts } => {
                let step = self.steps.len();
                let sent = self
                    .sent
                    .iter_mut()
                    .find(|sent| sent.seq == *seq)
                    .ok_or("an unknown batch is counted")?;
                if sent.counts() != *counts {
                    return Err(format!("batch {seq} was counted as {counts:?}, not {:?}", sent.counts()));
                }
                match sent.counted {
                    Some(_) => met(Met::CountedTwice),
                    None => sent.counted = Some((step, time_ms)),
                }
                Ok(Expected::Done)
            }
        }
    }

    fn batch(
        &mut self,
        time_ms: u64,
        client: usize,
        batch: &Batch,
        settings: &Settings,
        key: Option<u8>,
    ) -> Expected {
        let file = file_of(batch);
        let known = key.and_then(|key| self.keys.get(&(client, key)));
        if let Some(known) = known {
            let now = time_ms.max(model::millis(self.last_seq));
            if model::millis(known.seq) + KEY_LASTS_MS > now {
                let same = (&known.file, known.v2, known.removes, known.as_of_ms)
                    == (&file, batch.v2, batch.removes, batch.as_of_ms(time_ms));
                met(if same { Met::AcceptedBefore } else { Met::KeyTaken });
                return if same { Expected::Before(known.seq) } else { Expected::Taken(known.seq) };
            }
            met(Met::KeyLapsed);
        }
        let seq = self.next_seq(time_ms);
        if let Some(key) = key {
            let keyed =
                Keyed { seq, file, v2: batch.v2, removes: batch.removes, as_of_ms: batch.as_of_ms(time_ms) };
            self.keys.insert((client, key), keyed);
        }
        let from = if batch.v2 { From::BatchV2 } else { From::BatchV1 };
        let rules = model::BatchRules {
            rules: rules_of(seq, from, settings),
            creates: batch.v2 && settings.creates,
            replaces: batch.v2 && settings.replaces,
            removes: batch.removes,
            as_of_ms: batch.as_of_ms(time_ms),
        };
        let rows = rows_of(batch);
        let became = Rc::make_mut(&mut self.visitors)[client].batch(&rows, &rules);
        let accepted = self.steps.len();
        self.sent.push(Sent { client, seq, rows, became, accepted, counted: None });
        Expected::Accepted(seq)
    }

    fn call(&mut self, time_ms: u64, client: usize, call: &Call, settings: &Settings) -> Expected {
        let seq = self.next_seq(time_ms);
        let rules = rules_of(seq, call.from(), settings);
        let mut after = self.visitors[client].clone();
        let (came, pc) = match call {
            Call::Site { pc, third_party, ecid, sets } => {
                let from = if ecid.is_some() { From::Delivery } else { From::Mbox };
                let made = made_for(*pc, *third_party, *ecid);
                let ids = [(Kind::Pc, pc), (Kind::ThirdParty, third_party), (Kind::Ecid, ecid)]
                    .map(|(kind, who)| who.map(|who| id(kind, who)));
                let ids = ids.each_ref().map(Option::as_ref);
                let (came, given) =
                    after.site_call(ids, &made, &named(sets), &Rules { from, ..rules }).unwrap();
                (came, given.map(|id| id.name))
            }
            Call::Update { kind, who, sets } => {
                (after.update(&id(*kind, *who), &named(sets), &[], &rules), None)
            }
            Call::Remove { kind, who, attributes } => {
                (after.update(&id(*kind, *who), &[], &names(attributes), &rules), None)
            }
            Call::Erase { kind, who } => {
                let known = after.erase(&id(*kind, *who), &rules);
                met(Met::Erased);
                Rc::make_mut(&mut self.visitors)[client] = after;
                return Expected::Erased { known, seq };
            }
            Call::Batch(_) => unreachable!("a batch is no call to one visitor"),
        };
        if came.accepted {
            Rc::make_mut(&mut self.visitors)[client] = after;
        } else {
            met(Met::SeqWithoutWrite);
        }
        Expected::Written { came, seq, pc }
    }
}

fn rules_of(seq: u64, from: From, settings: &Settings) -> Rules {
    Rules { seq, from, lifetime_ms: settings.lifetime_ms, profile_bytes_max: settings.profile_bytes_max }
}
