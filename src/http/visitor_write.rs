//! What an administrator writes to one visitor, by the native API and by the inspector: removals and erasures. Each stands in the audit trail.

use super::endpoint::Call;
use super::error::HttpError;
use crate::engine::commit::VisitorWrite;
use crate::model::id::VisitorId;
use crate::model::seq::Seq;

/// Erases a visitor, by any of its ids (R12).
pub(super) async fn erase(call: &mut Call<'_>, id: VisitorId) -> Result<Seq, HttpError> {
    let (front, client, by) = (call.front, call.client()?, call.request.author());
    call.request.note(|notes| notes.id(&id, false));
    let named = format!("{} {}", id.kind().name(), id.as_str());
    let written = front.app.write_visitor(client.clone(), id, VisitorWrite::Erase, by).await?;
    let seq = written.seq.filter(|_| written.known).ok_or_else(|| {
        HttpError::NotFound(format!(
            "client {client} has no visitor with {named}; what one that has expired may have left goes all the same"
        ))
    })?;
    call.request.note(|notes| notes.outcome("erased"));
    // Which visitor it was, nothing may remember (R12).
    let actor = call.bearer.actor(call.request);
    front.app.note_act(actor, "erase", Some(client), &format!("seq {seq}")).await;
    Ok(seq)
}

/// Removes an attribute.
pub(super) async fn remove(call: &mut Call<'_>, id: VisitorId, name: &str) -> Result<Seq, HttpError> {
    let (front, client, by) = (call.front, call.client()?, call.request.author());
    call.request.note(|notes| {
        notes.id(&id, false);
        notes.removed(name);
    });
    let named = format!("{} {}", id.kind().name(), id.as_str());
    let write = VisitorWrite::Remove(vec![name.to_owned()]);
    let written = front.app.write_visitor(client.clone(), id, write, by).await?;
    let seq = written.seq.ok_or_else(|| {
        HttpError::NotFound(match written.known {
            true => format!("the visitor with {named} of client {client} has no attribute {name:?}"),
            false => format!("client {client} has no visitor with {named}"),
        })
    })?;
    call.request.note(|notes| notes.outcome("removed"));
    let actor = call.bearer.actor(call.request);
    front.app.note_act(actor, "remove", Some(client), &format!("seq {seq}")).await;
    Ok(seq)
}
