//! The visitors who were active last, newest first.
//!
//! Promises: each is shown as a lookup shows it, so whoever is erased or has expired is not among them. It reads the profiles of one page.

use crate::engine::error::EngineError;
use crate::engine::read::search::{FoundVisitor, FoundVisitors};
use crate::engine::read::state::Reader;
use crate::engine::shared::blocking;
use crate::model::id::{ClientCode, VisitorId};
use crate::model::seq::Seq;
use std::sync::Arc;

impl Reader {
    /// Those who were active before a place in the order, newest first.
    pub(in crate::engine) async fn active(
        self: &Arc<Self>,
        client: &ClientCode,
        before: Option<Seq>,
        most: usize,
    ) -> Result<FoundVisitors, EngineError> {
        let settings = self.shared.settings(client)?;
        let page = self.commit.active().before(client, before.unwrap_or(Seq::from_u64(u64::MAX)), most);
        let (reader, client) = (Arc::clone(self), client.clone());
        let found = blocking(move || {
            let next = page.visitors.last().filter(|_| page.more).map(|(_, seq)| seq.to_string());
            let looked_at = page.visitors.len();
            let mut found =
                FoundVisitors { visitors: vec![], next, looked_at, active_since: Some(page.since) };
            for (key, seq) in page.visitors {
                reader.shared.signals.go_on()?;
                let Ok(id) = VisitorId::new(key.kind(), key.id()) else { continue };
                let shown = reader.shown_now(&client, &id, &settings, |canonical, profile| {
                    (*canonical == key).then(|| (profile.last_active, profile.visible().len()))
                })?;
                if let Some((last_active, attributes)) = shown.flatten() {
                    let (canonical, last_call) = (id.clone(), Some(seq.millis()));
                    found.visitors.push(FoundVisitor { id, canonical, last_active, last_call, attributes });
                }
            }
            Ok(found)
        });
        found.await
    }
}
