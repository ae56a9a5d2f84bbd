//! The simulated order: a log that every node reads, and the records that are still on their way to it.
//!
//! Promises: what a log promises (`src/order/mod.rs`). A record that is on its way may arrive late, twice, behind a later one
//! of its run, or never.

use super::reference::Offer;
use profiled::model::seq::Millis;
use profiled::order::record::{Offers, RunId};
use profiled::order::{Offset, Record};
use std::collections::BTreeMap;

/// The log, and what was ever offered to it.
#[derive(Default)]
pub(crate) struct Log {
    /// The records from offset 0 on, also those that are trimmed.
    records: Vec<Record>,
    /// The offset of the first one that is still there.
    pub(crate) low: u64,
    /// Those that are on their way, in the order in which they were sent.
    pub(crate) on_their_way: Vec<Vec<u8>>,
    /// What each offer is.
    offers: BTreeMap<(RunId, u64), Offer>,
}

impl Log {
    /// Notes what a run offers.
    pub(crate) fn note(&mut self, run: RunId, number: u64, offer: Offer) {
        self.offers.insert((run, number), offer);
    }

    /// What an offer is.
    pub(crate) fn offer(&self, run: RunId, number: u64) -> Result<&Offer, String> {
        self.offers.get(&(run, number)).ok_or_else(|| "the order has what nobody offered".into())
    }

    /// Appends a record at this time of the log's clock.
    pub(crate) fn append(&mut self, value: Vec<u8>, time: Millis) -> Offset {
        let offset = Offset(self.end());
        self.records.push(Record { offset, time, key: vec![], value });
        offset
    }

    /// The offset that the next record gets.
    pub(crate) fn end(&self) -> u64 {
        self.records.len() as u64
    }

    /// A record, trimmed or not.
    pub(crate) fn read_any(&self, offset: Offset) -> &Record {
        &self.records[usize::try_from(offset.0).unwrap()]
    }

    /// A record, none behind the end.
    pub(crate) fn read(&self, offset: Offset) -> Result<Option<&Record>, String> {
        if offset.0 < self.low {
            return Err(format!("a node needs the record at {offset}, which is trimmed before {}", self.low));
        }
        Ok(usize::try_from(offset.0).ok().and_then(|at| self.records.get(at)))
    }
}

/// What a record says, and its time.
pub(crate) fn offers_of(record: &Record) -> Result<(Offers, Millis), String> {
    let offers = Offers::decode(&record.value).map_err(|error| format!("a record: {error}"))?;
    let time = offers.time(record.time);
    Ok((offers, time))
}
