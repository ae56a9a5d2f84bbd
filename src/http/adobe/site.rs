//! What the site's calls, mbox and Delivery, share: how large a body may be, what is said of lost attributes, and new ids.

use crate::engine::CallIds;
use crate::http::error::HttpError;
use crate::http::left_out::LeftOut;
use crate::model::id::{IdKind, VisitorId};

/// What an answer calls an attribute that was left out: what Adobe calls it.
pub(super) const PROFILE_PARAMETER: &str = "profile parameter";
/// Why an id is left out.
pub(super) const BLOCKED: &str = "that stands for nobody (blocked_ids)";
/// The largest body of the usual size: more than fifty of the longest names and values, in three encoded bytes a character.
pub(super) const BODY_BYTES_MAX: usize = 1 << 20;

/// Notes what a write lost because the profile would have grown too large.
pub(super) fn note_lost(left_out: &mut LeftOut, lost: usize) {
    left_out.note(lost, PROFILE_PARAMETER, "for which the profile has no room (max_profile_bytes)");
}

/// Gives a call that brings no id a new `pcId`. What another id says who it is gets one as it is written, the same each
/// time (R1).
pub(super) fn give_pc_id(ids: &mut CallIds) -> Result<(), HttpError> {
    if ids.pc.is_none() && ids.third_party.is_none() && ids.ecid.is_none() {
        ids.pc = VisitorId::new(IdKind::Pc, &random_id()?).ok();
    }
    Ok(())
}

/// A new id: 32 hexadecimal digits, as Adobe's are.
pub(super) fn random_id() -> Result<String, HttpError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|e| HttpError::Inside(format!("no random numbers: {e}")))?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}
