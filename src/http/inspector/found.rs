//! Visitors that were found, as pages list them; and those whose ids begin with the text that was looked up.

use super::words::Moment;
use crate::engine::EngineError;
use crate::engine::read::search::{FoundVisitor, FoundVisitors};
use crate::http::{Front, kinds};
use crate::model::id::ClientCode;
use crate::model::seq::Millis;

/// How many are shown of each kind of id.
const SHOWN_MAX: usize = 20;

/// Visitors that were found.
#[derive(Default)]
pub(super) struct Found {
    pub(super) visitors: Vec<FoundOne>,
    /// Whether there are more.
    pub(super) more: bool,
}

/// One of them.
pub(super) struct FoundOne {
    pub(super) by: &'static str,
    pub(super) kind: &'static str,
    pub(super) id: String,
    pub(super) active: Moment,
    pub(super) attributes: usize,
}

impl Found {
    /// Finds them by the kind of id that is named, or by each kind.
    pub(super) async fn of(
        front: &Front,
        client: &ClientCode,
        (by, id): (&str, &str),
    ) -> Result<Self, EngineError> {
        let mut all = Self::default();
        let now = front.app.now();
        for (name, kind) in kinds::KINDS {
            if !["", "any", name].contains(&by) {
                continue;
            }
            let found = front.app.find(client, (kind, id), None, SHOWN_MAX).await?;
            all.more |= found.next.is_some();
            all.visitors.extend(found.visitors.into_iter().map(|one| FoundOne::of(one, now)));
        }
        Ok(all)
    }
}

impl Found {
    /// A page of them.
    pub(super) fn all(found: FoundVisitors, now: Millis) -> Self {
        let more = found.next.is_some();
        Self { visitors: found.visitors.into_iter().map(|one| FoundOne::of(one, now)).collect(), more }
    }
}

impl FoundOne {
    pub(super) fn of(found: FoundVisitor, now: Millis) -> Self {
        Self {
            by: kinds::name(found.id.kind()),
            kind: found.id.kind().name(),
            id: found.id.as_str().to_owned(),
            active: Moment::of(found.last_call.unwrap_or(found.last_active), now),
            attributes: found.attributes,
        }
    }
}
