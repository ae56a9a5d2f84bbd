//! Visitors by the beginning of an id.
//!
//! Promises: it reads the keys of one kind that begin so, in their order, and no others, for keys are sorted by client, kind and id. One
//! call looks at [`LOOKED_AT_MAX`] of them at most. Each visitor is shown as lookups show it. A visitor whom only rows of pending
//! batches create is not found before these are applied.

use crate::engine::error::EngineError;
use crate::engine::read::state::Reader;
use crate::engine::shared::blocking;
use crate::model::id::{ClientCode, IdKind, Key, VisitorId};
use crate::model::seq::Millis;
use crate::store::ProfileStore as _;
use std::sync::Arc;

/// How many visitors are found at most at a time.
pub const FOUND_MAX: usize = 100;
/// How many keys are looked at, at most, for one page: some are of visitors who have expired or were erased.
const LOOKED_AT_MAX: usize = 1_000;
/// How many keys are read at once.
const PAGE_KEYS: usize = 64;

/// A visitor that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundVisitor {
    /// The id that begins so; the profile's own where nothing was said of ids.
    pub id: VisitorId,
    /// The id that the profile is kept under.
    pub canonical: VisitorId,
    /// When the visitor was last active.
    pub last_active: Millis,
    /// When its last call or single update came, where that was asked for.
    pub last_call: Option<Millis>,
    /// How many attributes the visitor has.
    pub attributes: usize,
}

/// A page of visitors. Those with an id that begins so come in the order of the ids' bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FoundVisitors {
    /// Those of this page.
    pub visitors: Vec<FoundVisitor>,
    /// Where the next page begins; none if this is the last.
    pub next: Option<String>,
    /// How many ids or profiles were looked at for this page.
    pub looked_at: usize,
    /// Since when calls were noted, where the question was who was active last.
    pub active_since: Option<Millis>,
}

impl Reader {
    /// Finds visitors by the beginning of an id, from behind an id of an earlier page on.
    pub(in crate::engine) async fn find(
        self: &Arc<Self>,
        client: &ClientCode,
        (kind, beginning): (IdKind, &str),
        after: Option<&str>,
        most: usize,
    ) -> Result<FoundVisitors, EngineError> {
        let (reader, client) = (Arc::clone(self), client.clone());
        let (beginning, after) = (beginning.to_owned(), after.map(str::to_owned));
        blocking(move || reader.find_now(&client, (kind, &beginning), after.as_deref(), most)).await
    }

    fn find_now(
        &self,
        client: &ClientCode,
        (kind, beginning): (IdKind, &str),
        after: Option<&str>,
        most: usize,
    ) -> Result<FoundVisitors, EngineError> {
        let settings = self.shared.settings(client)?;
        let begins = Key::new(client, kind, beginning);
        let mut found = FoundVisitors::default();
        // The scan begins behind a key, and the beginning may be an id itself.
        let after = after.map(|after| Key::new(client, kind, after)).filter(|after| *after >= begins);
        let (mut at, mut keys) = match after {
            Some(after) => (after, vec![]),
            None => (begins.clone(), vec![begins.clone()]),
        };
        loop {
            for key in keys.drain(..) {
                if found.visitors.len() == most || found.looked_at == LOOKED_AT_MAX {
                    found.next = Some(at.id().to_owned());
                    return Ok(found);
                }
                found.looked_at += 1;
                at = key;
                let Ok(id) = VisitorId::new(kind, at.id()) else { continue };
                let shown = self.shown_now(client, &id, &settings, |canonical, profile| {
                    let canonical = VisitorId::new(canonical.kind(), canonical.id()).ok()?;
                    Some((canonical, profile.last_active, profile.visible().len()))
                })?;
                if let Some((canonical, last_active, attributes)) = shown.flatten() {
                    found.visitors.push(FoundVisitor {
                        id,
                        canonical,
                        last_active,
                        last_call: None,
                        attributes,
                    });
                }
            }
            self.shared.signals.go_on()?;
            let page = self.shared.store.scan(Some(&at), PAGE_KEYS);
            let page = page.map_err(|error| self.shared.reported(error))?;
            let wanted = |key: &Key| key.as_bytes().starts_with(begins.as_bytes());
            keys.extend(page.into_iter().map(|(key, _)| key).take_while(wanted));
            if keys.is_empty() {
                return Ok(found);
            }
        }
    }
}
