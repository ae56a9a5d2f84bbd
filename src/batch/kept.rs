//! The complete batches that are kept, in memory: what a status shows, and what it takes to find their files.
//!
//! Promises: a batch takes 72 bytes, and about twice as much again if it has a name; each client a little. Finding, adding and
//! removing a batch costs the same however many are kept. A client's totals are known without looking at its batches.

use super::accepted::Accepted;
use super::progress::{Known, Progress};
use crate::model::author::Author;
use crate::model::batch::{BatchId, BatchName, BatchRules, Counts, Outcome};
use crate::model::id::{ClientCode, IdKind};
use crate::model::seq::{Millis, Seq};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// How many batches a piece has at most.
const PIECE_BATCHES: usize = 256;

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Kept {
    clients: BTreeMap<ClientCode, OfClient>,
    /// The different rules that batches came with. There are few, because rules follow from the settings.
    shapes: Vec<Shape>,
    authors: Authors,
    own: HashMap<BatchId, Own>,
}

/// What many batches have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shape {
    /// The rules, without what is each batch's own: its seq, its time, what it undoes.
    rules: BatchRules,
    key_kind: IdKind,
}

/// What only some batches have: the time that their values are of, the batch that they undo, and a name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Own {
    as_of: Option<Millis>,
    undoes: Option<Seq>,
    name: Option<BatchName>,
}

/// Who sent the batches: mostly few. An author whose last batch goes makes room for another.
#[derive(Debug, Default)]
struct Authors {
    /// By number: who, and how many batches are theirs.
    numbered: Vec<(Author, u32)>,
    numbers: HashMap<Author, u32>,
    free: Vec<u32>,
}

impl Authors {
    /// Notes one more batch of this author's. Gives the author's number.
    fn add(&mut self, author: Author) -> u32 {
        let number = *self.numbers.entry(author).or_insert_with(|| {
            self.free.pop().unwrap_or_else(|| {
                self.numbered.push((author, 0));
                narrow(self.numbered.len() as u64 - 1)
            })
        });
        if let Some(entry) = self.numbered.get_mut(number as usize) {
            *entry = (author, entry.1 + 1);
        }
        number
    }

    fn get(&self, number: u32) -> Author {
        self.numbered.get(number as usize).map(|(author, _)| *author).unwrap_or_default()
    }

    /// A batch of this author's goes.
    fn release(&mut self, number: u32) {
        let Some((author, batches)) = self.numbered.get_mut(number as usize) else { return };
        *batches = batches.saturating_sub(1);
        if *batches == 0 {
            self.numbers.remove(author);
            self.free.push(number);
        }
    }
}

/// One client's batches.
#[derive(Debug, Default)]
struct OfClient {
    /// In seq order. The key is the first seq that a piece had when it was begun. No piece is empty.
    pieces: BTreeMap<Seq, Vec<Slot>>,
    totals: Totals,
}

/// The totals of a client's complete batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// How many.
    pub batches: u64,
    /// The bytes of their uploads.
    pub bytes: u64,
    /// Their rows.
    pub rows: u64,
    /// Their rows by outcome.
    pub counts: Counts,
}

/// One batch. A line number has 32 bits, so a row count has, too.
#[derive(Debug, Clone, Copy)]
struct Slot {
    seq: Seq,
    at: Millis,
    spool: u64,
    bytes: u64,
    crc32c: Option<u32>,
    rows: u32,
    counts: [u32; 5],
    shape: u32,
    author: u32,
}

impl Kept {
    /// Adds a batch, or puts it in the place of what was kept of it.
    pub(super) fn insert(&mut self, accepted: &Accepted, counts: &Counts, at: Millis) {
        self.remove(&accepted.id);
        let shape = Shape {
            rules: BatchRules { seq: Seq::ZERO, as_of: None, undoes: None, ..accepted.rules.clone() },
            key_kind: accepted.key_kind,
        };
        let known = self.shapes.iter().position(|known| *known == shape);
        let number = known.unwrap_or(self.shapes.len());
        if known.is_none() {
            self.shapes.push(shape);
        }
        let author = self.authors.add(accepted.by);
        let slot = Slot {
            seq: accepted.id.seq,
            at,
            spool: accepted.spool,
            bytes: accepted.bytes,
            crc32c: accepted.crc32c,
            rows: narrow(accepted.rows),
            counts: Outcome::ALL.map(|outcome| narrow(counts.of(outcome))),
            shape: narrow(number as u64),
            author,
        };
        let BatchRules { as_of, undoes, .. } = accepted.rules;
        let own = Own { as_of, undoes, name: accepted.name.clone() };
        if own != Own::default() {
            self.own.insert(accepted.id.clone(), own);
        }
        self.clients.entry(accepted.id.client.clone()).or_default().insert(slot);
    }

    /// Takes a batch out; what it was.
    pub(super) fn remove(&mut self, id: &BatchId) -> Option<Known> {
        let of_client = self.clients.get_mut(&id.client)?;
        let slot = of_client.remove(id.seq)?;
        if of_client.pieces.is_empty() {
            self.clients.remove(&id.client);
        }
        let known = self.known(&id.client, slot);
        self.authors.release(slot.author);
        self.own.remove(id);
        known
    }

    /// One batch.
    pub(super) fn get(&self, id: &BatchId) -> Option<Known> {
        let slot = self.clients.get(&id.client)?.get(id.seq)?;
        self.known(&id.client, *slot)
    }

    /// Whether a batch is among them.
    pub(super) fn has(&self, id: &BatchId) -> bool {
        self.clients.get(&id.client).is_some_and(|of_client| of_client.get(id.seq).is_some())
    }

    /// A client's batches before a place in the order, newest first.
    pub(super) fn before(&self, client: &ClientCode, before: Seq) -> impl Iterator<Item = Known> {
        let of_client = self.clients.get_key_value(client);
        of_client.into_iter().flat_map(move |(client, of_client)| {
            let pieces = of_client.pieces.range(..before).rev().flat_map(|(_, piece)| piece.iter().rev());
            let slots = pieces.skip_while(move |slot| slot.seq >= before);
            slots.filter_map(move |slot| self.known(client, *slot))
        })
    }

    /// A client's batches behind a place in the order, oldest first.
    pub(super) fn behind(&self, client: &ClientCode, behind: Seq) -> impl Iterator<Item = Known> {
        let of_client = self.clients.get_key_value(client);
        of_client.into_iter().flat_map(move |(client, of_client)| {
            // What is behind may begin within the piece before.
            let first = of_client.pieces.range(..=behind).next_back().map_or(behind, |(first, _)| *first);
            let slots = of_client.pieces.range(first..).flat_map(|(_, piece)| piece.iter());
            let slots = slots.skip_while(move |slot| slot.seq <= behind);
            slots.filter_map(move |slot| self.known(client, *slot))
        })
    }

    /// Whose batches there are.
    pub(super) fn clients(&self) -> impl Iterator<Item = &ClientCode> {
        self.clients.keys()
    }

    /// How many batches there are.
    pub(super) fn len(&self) -> u64 {
        self.clients.values().map(|of_client| of_client.totals.batches).sum()
    }

    /// What a client's come to.
    pub(super) fn totals(&self, client: &ClientCode) -> Totals {
        self.clients.get(client).map(|of_client| of_client.totals).unwrap_or_default()
    }

    fn known(&self, client: &ClientCode, slot: Slot) -> Option<Known> {
        let Shape { rules, key_kind } = self.shapes.get(slot.shape as usize)?;
        let id = BatchId { client: client.clone(), seq: slot.seq };
        let own = self.own.get(&id).cloned().unwrap_or_default();
        let accepted = Accepted {
            id,
            rules: BatchRules { seq: slot.seq, as_of: own.as_of, undoes: own.undoes, ..rules.clone() },
            key_kind: *key_kind,
            spool: slot.spool,
            bytes: slot.bytes,
            crc32c: slot.crc32c,
            rows: slot.rows.into(),
            key: None,
            name: own.name,
            by: self.authors.get(slot.author),
        };
        let progress = Progress::of(&accepted);
        progress.complete(slot.counts(), slot.at);
        Some(Known { accepted: Arc::new(accepted), progress: Arc::new(progress) })
    }
}

impl OfClient {
    fn insert(&mut self, slot: Slot) {
        self.totals = self.totals.plus(&slot);
        // Batches of a client are applied in their order, so this one mostly comes behind all others.
        let Some((&first, piece)) = self.pieces.range_mut(..=slot.seq).next_back() else {
            self.pieces.insert(slot.seq, vec![slot]);
            return;
        };
        let at = piece.partition_point(|other| other.seq < slot.seq);
        if piece.len() < PIECE_BATCHES {
            piece.insert(at, slot);
            return;
        }
        let mut rest = piece.split_off(at);
        rest.insert(0, slot);
        let emptied = piece.is_empty() && first != slot.seq;
        self.pieces.insert(slot.seq, rest);
        if emptied {
            self.pieces.remove(&first);
        }
    }

    fn remove(&mut self, seq: Seq) -> Option<Slot> {
        let (&first, piece) = self.pieces.range_mut(..=seq).next_back()?;
        let at = piece.binary_search_by_key(&seq, |slot| slot.seq).ok()?;
        let slot = piece.remove(at);
        if piece.is_empty() {
            self.pieces.remove(&first);
        }
        self.totals = self.totals.minus(&slot);
        Some(slot)
    }

    fn get(&self, seq: Seq) -> Option<&Slot> {
        let (_, piece) = self.pieces.range(..=seq).next_back()?;
        piece.get(piece.binary_search_by_key(&seq, |slot| slot.seq).ok()?)
    }
}

impl Slot {
    fn counts(&self) -> Counts {
        let [updated, created, not_found, ignored, failed] = self.counts.map(u64::from);
        Counts { updated, created, not_found, ignored, failed }
    }
}

impl Totals {
    fn plus(&self, slot: &Slot) -> Self {
        Self {
            batches: self.batches + 1,
            bytes: self.bytes + slot.bytes,
            rows: self.rows + u64::from(slot.rows),
            counts: self.counts.plus(&slot.counts()),
        }
    }

    fn minus(&self, slot: &Slot) -> Self {
        Self {
            batches: self.batches - 1,
            bytes: self.bytes - slot.bytes,
            rows: self.rows - u64::from(slot.rows),
            counts: self.counts.since(&slot.counts()),
        }
    }
}

/// A number of which it is known that it has no more bits: of rows, or of rules.
fn narrow(number: u64) -> u32 {
    debug_assert!(u32::try_from(number).is_ok(), "{number} rows, or different rules");
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::author::TokenId;
    use crate::model::batch::{ConsecutiveV2, EmptyValues, RowReading};
    use crate::model::blocked::BlockedIds;
    use crate::model::profile::Source;
    use proptest::prelude::*;

    const CLIENTS: [&str; 2] = ["a", "ab"];

    fn accepted(client: usize, seq: u64) -> Accepted {
        let seq = Seq::from_u64(seq);
        let own = RowReading::now(BlockedIds::these(["void"]));
        let rules = BatchRules {
            seq,
            source: if seq.get().is_multiple_of(3) { Source::BatchV1 } else { Source::BatchV2 },
            creates: seq.get().is_multiple_of(2),
            consecutive_v2: ConsecutiveV2::Merge,
            empty_values: EmptyValues::Ignore,
            lifetime_ms: 7,
            max_profile_bytes: 9,
            reading: if seq.get().is_multiple_of(5) { own } else { RowReading::default() },
            history_max: 16,
            as_of: seq.get().is_multiple_of(7).then_some(Millis(seq.get())),
            undoes: seq.get().is_multiple_of(9).then_some(Seq::from_u64(seq.get() / 3)),
        };
        Accepted {
            id: BatchId { client: ClientCode::new(CLIENTS[client]).unwrap(), seq },
            rules,
            key_kind: IdKind::Pc,
            spool: seq.get() + 1,
            bytes: seq.get() * 10,
            crc32c: Some(3),
            rows: 2,
            key: None,
            name: seq.get().is_multiple_of(11).then(|| BatchName::new("nightly").unwrap()),
            by: Author { token: TokenId::new(&format!("{:x}", seq.get() % 200)), address: None },
        }
    }

    const COUNTS: Counts = Counts { updated: 1, created: 0, not_found: 1, ignored: 0, failed: 0 };

    fn seqs(found: impl Iterator<Item = Known>) -> Vec<u64> {
        found.map(|known| known.accepted.id.seq.get()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        /// The model: a map. Most batches come in their order, some between others; as many go again.
        #[test]
        fn it_has_what_a_map_has(steps in prop::collection::vec((0..2_usize, any::<bool>(), 0..900_u64), 0..1200)) {
            let (mut kept, mut model) = (Kept::default(), BTreeMap::new());
            for (number, (client, goes, at)) in (1_u64..).zip(steps) {
                let seq = if at.is_multiple_of(8) { at } else { number * 2 };
                if goes && at < 400 {
                    let gone = kept.remove(&accepted(client, at).id).map(|known| known.accepted);
                    let expected = model.remove(&(client, at));
                    prop_assert_eq!(gone.as_deref(), expected.as_ref());
                } else {
                    kept.insert(&accepted(client, seq), &COUNTS, Millis(seq));
                    model.insert((client, seq), accepted(client, seq));
                }
            }
            let senders: std::collections::BTreeSet<_> = model.values().map(|batch| batch.by).collect();
            prop_assert_eq!(kept.authors.numbers.len(), senders.len(), "whoever has no batch is not kept");
            for (client, code) in CLIENTS.iter().enumerate() {
                let code = ClientCode::new(code).unwrap();
                let own: Vec<u64> =
                    model.keys().filter(|(owner, _)| *owner == client).map(|(_, seq)| *seq).collect();
                for seq in [0, 1, 77, 256, 257, 600, 1200, 9999] {
                    let before = own.iter().rev().filter(|own| **own < seq).copied().collect::<Vec<_>>();
                    prop_assert_eq!(seqs(kept.before(&code, Seq::from_u64(seq))), before);
                    let behind = own.iter().filter(|own| **own > seq).copied().collect::<Vec<_>>();
                    prop_assert_eq!(seqs(kept.behind(&code, Seq::from_u64(seq))), behind);
                }
                let totals = kept.totals(&code);
                prop_assert_eq!(totals.batches, own.len() as u64);
                prop_assert_eq!(totals.bytes, own.iter().sum::<u64>() * 10);
                prop_assert_eq!((totals.rows, totals.counts.total()), (totals.batches * 2, totals.batches * 2));
            }
            for accepted in model.values() {
                let known = kept.get(&accepted.id).unwrap();
                prop_assert_eq!(&*known.accepted, accepted);
                prop_assert_eq!(known.progress.counts(), COUNTS);
            }
            prop_assert_eq!(kept.len(), model.len() as u64);
        }
    }

    #[test]
    fn a_kept_batch_takes_a_few_dozen_bytes() {
        assert_eq!(size_of::<Slot>(), 72);
    }
}
