//! A change in JSON, as the feed over HTTP and a topic of changes have it.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::outcomes::Outcomes;
use crate::engine::EngineError;
use crate::engine::read::changes::{ChangePlace, Event, What, Written};
use crate::journal::entry::WriteKind;
use crate::model::author::Author;
use crate::model::batch::{BatchId, EmptyValues, Outcome};
use crate::model::id::Key;
use crate::model::seq::Millis;

/// Writes an event as a feed of one client has it, with its client before it.
pub fn write_change(event: &Event, bytes: &mut Vec<u8>) {
    let since = if let What::Gap { since } = event.what { Some(since.to_string()) } else { None };
    let event = OfClient { client: event.client(), event: ChangeEvent::of(event), since };
    if let Err(error) = serde_json::to_writer(bytes, &event) {
        tracing::error!(%error, "an event in JSON");
    }
}

/// An event of one client among those of all.
#[derive(Serialize)]
struct OfClient<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<&'a str>,
    #[serde(flatten)]
    event: ChangeEvent<'a>,
    /// Of a `gap`: what came after this seq, up to the event's, is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
}

/// A visitor's id.
#[derive(Debug, Serialize, ToSchema)]
struct Id {
    /// `pcId`, `thirdPartyId` or `marketingCloudVisitorId`.
    kind: &'static str,
    id: String,
}

impl Id {
    fn of(key: &Key) -> Self {
        Self { kind: key.kind().name(), id: key.id().to_owned() }
    }

    fn all(keys: &[Key]) -> Option<Vec<Self>> {
        Some(keys.iter().map(Self::of).collect())
    }
}

/// Who made a write. What the token is called can be asked of `GET /api/v1/tokens`.
#[derive(Debug, Serialize, ToSchema)]
struct Actor {
    /// The id of the token of the call. null: the daemon asked for none.
    token: Option<String>,
    /// The address that the call came from.
    address: Option<String>,
}

impl Actor {
    /// Who this is. `None` if nothing is known of them.
    fn of(author: Author) -> Option<Self> {
        (!author.is_unknown()).then(|| Self {
            token: author.token.map(|token| token.as_str().to_owned()),
            address: author.address.map(|address| address.to_string()),
        })
    }
}

/// One event. What it has depends on what happened.
#[derive(Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::http) struct ChangeEvent<'a> {
    /// Its place in the order.
    seq: String,
    /// When that was.
    #[schema(format = "date-time")]
    time: String,
    /// What happened: `write`, `left`, `erase`, `sweep`, `withheld`, `batch`, `row`, `batchEnd`; or about the stream: `upTo`, `waiting`,
    /// `gone`, `error`.
    pub(in crate::http) event: &'static str,
    /// What kind of call it came by.
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'static str>,
    /// Who made it, of a batch and of a write that is no page's.
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<Actor>,
    /// The visitor: its canonical id; of a row the id that it names.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Id>,
    /// The ids that were erased or swept; of `withheld` those that led to the visitor from then on; with `attributes`: all other ids that the visitor has then.
    #[serde(skip_serializing_if = "Option::is_none")]
    ids: Option<Vec<Id>>,
    /// Whether the visitor began with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<bool>,
    /// The attributes that it set.
    #[serde(skip_serializing_if = "Option::is_none")]
    set: Option<BTreeMap<&'a str, &'a str>>,
    /// The attributes that it removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    removed: Option<&'a [String]>,
    /// The ids that it bound to the visitor.
    #[serde(skip_serializing_if = "Option::is_none")]
    bound: Option<Vec<Id>>,
    /// All attributes that the visitor has then, where the write brought more than it names, and of `left`. Of a row that undid
    /// something: those that the visitor has now, where its history does not say any more what was put back. Apply the later changes
    /// to them.
    #[serde(skip_serializing_if = "Option::is_none")]
    attributes: Option<BTreeMap<&'a str, &'a str>>,
    /// Of `left`: the attributes that lie over those, until the next batch that replaces drops them.
    #[serde(skip_serializing_if = "Option::is_none")]
    layer: Option<BTreeMap<&'a str, &'a str>>,
    /// The batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    batch_id: Option<String>,
    /// The row's line; of `left`, and of a `withheld` in its place, its number among those with this seq, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u32>,
    /// The row's outcome.
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    /// Why the row failed, `newer` if it left something alone, or `erased`.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// How many rows the batch has.
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<u64>,
    /// Whether it replaces what earlier v2 batches set since the visitor's last site call.
    #[serde(skip_serializing_if = "Option::is_none")]
    replaces: Option<bool>,
    /// The time that its values are of, if it said one.
    #[serde(skip_serializing_if = "Option::is_none")]
    as_of: Option<String>,
    /// The batch that it undoes. Then its rows tell what they put back, and not what the file says.
    #[serde(skip_serializing_if = "Option::is_none")]
    undoes: Option<String>,
    /// Whether its empty values remove attributes.
    #[serde(skip_serializing_if = "Option::is_none")]
    removes: Option<bool>,
    /// The batch's rows by outcome.
    #[serde(skip_serializing_if = "Option::is_none")]
    counts: Option<Outcomes>,
    /// Why the stream ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// The earliest seq that can be asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    earliest: Option<String>,
}

impl<'a> ChangeEvent<'a> {
    /// An event about the stream.
    pub(in crate::http) fn bare(event: &'static str, place: ChangePlace) -> Self {
        let time = place.seq.millis().iso_8601();
        Self { seq: place.seq.to_string(), time, event, ..Self::default() }
    }

    /// The rows of this batch come next, once it is complete.
    pub(in crate::http) fn waiting(batch: &BatchId, place: ChangePlace) -> Self {
        Self { batch_id: Some(batch.to_string()), ..Self::bare("waiting", place) }
    }

    /// The stream ends here for this reason.
    pub(in crate::http) fn ended(error: &EngineError, place: ChangePlace) -> Self {
        let (event, earliest) = match error {
            EngineError::ChangesGone { earliest, .. } => ("gone", Some(earliest.to_string())),
            _ => ("error", None),
        };
        Self { message: Some(error.to_string()), earliest, ..Self::bare(event, place) }
    }

    /// What was told.
    pub(in crate::http) fn of(told: &'a Event) -> Self {
        let bare = |event| Self::bare(event, told.place);
        match &told.what {
            What::Write(written) => Self::written(written, bare("write")),
            What::Erased(ids) => Self { source: Some("erasure"), ids: Id::all(ids), ..bare("erase") },
            What::Swept(ids) => Self { source: Some("sweep"), ids: Id::all(ids), ..bare("sweep") },
            What::Withheld(_, ids) => Self {
                ids: Id::all(ids).filter(|ids| !ids.is_empty()),
                // Where a `left` was.
                line: told.place.line,
                ..bare("withheld")
            },
            What::Left { id, attributes, layer } => Self {
                id: Some(Id::of(id)),
                line: told.place.line,
                attributes: Some(map(attributes)),
                layer: (!layer.is_empty()).then(|| map(layer)),
                ..bare("left")
            },
            What::Batch(batch) => Self {
                source: Some(batch.rules.source.name()),
                by: Actor::of(batch.by),
                batch_id: Some(batch.id.to_string()),
                rows: Some(batch.rows),
                replaces: Some(batch.rules.writes_layer()),
                as_of: batch.rules.as_of.map(Millis::iso_8601),
                undoes: batch.undone().map(|undone| undone.to_string()),
                removes: Some(batch.rules.empty_values == EmptyValues::Remove),
                ..bare("batch")
            },
            What::Row(row) => {
                let applied = row.outcome.applied() && row.id.is_some();
                Self {
                    source: Some(row.batch.rules.source.name()),
                    batch_id: Some(row.batch.id.to_string()),
                    line: Some(row.line),
                    id: row.id.as_ref().map(Id::of),
                    outcome: Some(row.outcome.name()),
                    reason: row.reason,
                    created: (row.outcome == Outcome::Created).then_some(true),
                    set: (applied && row.whole.is_none()).then(|| map(&row.sets)),
                    attributes: row.whole.as_deref().map(map),
                    removed: Some(&*row.removed).filter(|names| !names.is_empty()),
                    ..bare("row")
                }
            }
            What::BatchEnd(batch, counts) => Self {
                batch_id: Some(batch.to_string()),
                counts: Some(Outcomes::of(counts)),
                ..bare("batchEnd")
            },
            What::Gap { .. } => bare("gap"),
        }
    }

    fn written(written: &'a Written, bare: Self) -> Self {
        let source = written.kind.and_then(|kind| match kind {
            WriteKind::Mbox => Some("mbox"),
            WriteKind::Delivery => Some("delivery"),
            WriteKind::SingleUpdate => Some("single update"),
            WriteKind::Removal => Some("removal"),
            WriteKind::Erasure => Some("erasure"),
            WriteKind::Sweep => Some("sweep"),
            WriteKind::Unknown => None,
        });
        let whole = written.whole.as_ref();
        Self {
            source,
            by: Actor::of(written.by),
            id: Some(Id::of(&written.id)),
            created: written.created.then_some(true),
            set: Some(map(&written.sets)),
            removed: Some(&*written.removed).filter(|names| !names.is_empty()),
            bound: Id::all(&written.bound).filter(|ids| !ids.is_empty()),
            attributes: whole.map(|whole| map(&whole.attributes)),
            ids: whole.and_then(|whole| Id::all(&whole.ids)),
            ..bare
        }
    }
}

fn map(pairs: &[(String, String)]) -> BTreeMap<&str, &str> {
    pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}
