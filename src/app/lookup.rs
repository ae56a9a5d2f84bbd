//! A visitor as of now: the stored profile, with the visitor's pending rows folded in.
//!
//! Promises: a lookup waits for nobody, sees a batch from the moment it is acknowledged, and never shows a state that
//! was at no time there.

use super::{Visitor, VisitorAttribute};
use crate::batch::outcome::BatchState;
use crate::batch::queue::Batches;
use crate::batch::settle::{Noted, SettleError, View, decoded, settle};
use crate::model::id::{ClientCode, Key, VisitorId};
use crate::model::profile::{Attribute, Profile, Stored};
use crate::model::seq::{Millis, Seq};
use crate::store::{ProfileStore, StoreError};

/// How often a lookup is begun again because a bind moved the visitor under it, or a batch was completed.
const LOOKUP_TRIES_MAX: usize = 100;

/// Looks a visitor up: the stored profile, with the visitor's pending rows folded in.
pub fn look_up(
    store: &dyn ProfileStore,
    batches: &Batches,
    client: &ClientCode,
    id: &VisitorId,
    now: Millis,
    lifetime_ms: u64,
) -> Result<Option<Visitor>, SettleError> {
    let key = id.key(client);
    for _ in 0..LOOKUP_TRIES_MAX {
        // The runs first, the store second: a batch that is folded in between is then met in the store.
        let pending = batches.pending(client);
        let mut view = View::new(store);
        settle(&mut view, &pending, &key, &mut Noted::nothing())?;
        let canonical = view.canonical(&key)?;
        // A link that leads nowhere may be one that a bind moved while we looked.
        if canonical == key && !view.links_stand(&key)? {
            continue;
        }
        let value = view.get(&canonical)?;
        let stored = value.as_ref().map(|value| decoded(&canonical, value)).transpose()?;
        // Once a batch is complete, writes no longer settle its rows: what was read after them can't bear those rows.
        if pending.iter().any(|batch| matches!(batch.progress.state(), BatchState::Complete(_))) {
            continue;
        }
        return Ok(match stored {
            Some(Stored::Profile(profile)) if !profile.expired(now, lifetime_ms) => {
                Visitor::of(client, &canonical, &profile, lifetime_ms)
            }
            _ => None,
        });
    }
    let why = format!("it was written to under each of {LOOKUP_TRIES_MAX} tries");
    Err(StoreError::Failed { doing: "show a visitor", why }.into())
}

impl Visitor {
    fn of(client: &ClientCode, canonical: &Key, profile: &Profile<'_>, lifetime_ms: u64) -> Option<Self> {
        let some = |seq: Seq| (seq > Seq::ZERO).then_some(seq);
        let attribute = |a: Attribute<'_>| VisitorAttribute {
            name: a.name.to_owned(),
            value: a.value.to_owned(),
            seq: a.seq,
            source: a.source,
        };
        Some(Self {
            client: client.clone(),
            canonical: VisitorId::new(canonical.kind(), canonical.id()).ok()?,
            linked: profile
                .ids
                .iter()
                .filter_map(|linked| VisitorId::new(linked.kind, linked.id).ok())
                .collect(),
            born: profile.born,
            last_site: some(profile.last_site),
            last_batch: some(profile.last_batch),
            seq: profile.last_write,
            last_active: profile.last_active,
            expires: profile.last_active.plus(lifetime_ms),
            attributes: profile.visible().into_iter().map(attribute).collect(),
        })
    }
}
