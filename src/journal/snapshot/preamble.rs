//! The preamble of a snapshot: its format version and its salt.

use super::block::MAGIC;
use super::error::Damage;
use crate::durable::record::{Fields, is_sealed, seal};

pub(super) const PREAMBLE_BYTES: usize = 24;
/// Where in the preamble its checksum stands.
const PREAMBLE_SUM_AT: usize = 20;

pub(super) fn preamble(version: u32, salt: u64) -> Vec<u8> {
    let mut bytes = [&MAGIC[..], &version.to_le_bytes(), &salt.to_le_bytes(), &[0; 4]].concat();
    seal(&mut bytes, PREAMBLE_SUM_AT);
    bytes
}

/// Version and salt.
pub(super) fn parse_preamble(bytes: &[u8; PREAMBLE_BYTES]) -> Result<(u32, u64), Damage> {
    let mut fields = Fields(bytes.strip_prefix(&MAGIC).ok_or(Damage::Magic)?);
    let parsed = fields.u32().zip(fields.u64());
    parsed.filter(|_| is_sealed(bytes, PREAMBLE_SUM_AT)).ok_or(Damage::Preamble)
}
