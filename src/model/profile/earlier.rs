//! Profiles in the format of earlier versions. They are read, and written in today's format at their next change.
//!
//! ```text
//! version 1: applied_seq u64 · born u64 · last_site u64 · last_batch u64 · last_write u64 · last_active u64
//!            ids u16 · attributes u32 · layer u32
//!            ids ×        (kind u8 · seq u64 · length u16)
//!            attributes × (seq u64 · source u8 · name length u16 · value length u32), by name
//!            layer ×      (the same)
//!            text: the ids, then names and values, in that order
//! ```

use super::reader::{DecodeError, Reader, Text, check_order};
use super::record::Profile;
use super::types::{Attribute, LinkedId, Source};
use crate::model::id::IdKind;
use crate::model::seq::{Millis, Seq};

const ID_META_BYTES: usize = 1 + 8 + 2;
const ATTRIBUTE_META_BYTES: usize = 8 + 1 + 2 + 4;

pub(super) fn decode_profile<'a>(
    applied_seq: Seq,
    mut reader: Reader<'a>,
) -> Result<Profile<'a>, DecodeError> {
    let mut profile = Profile {
        applied_seq,
        born: reader.seq()?,
        last_site: reader.seq()?,
        last_batch: reader.seq()?,
        last_write: reader.seq()?,
        last_active: Millis(reader.u64()?),
        ..Profile::default()
    };
    let (ids, attributes, layer) = (length_2(&mut reader)?, length_4(&mut reader)?, length_4(&mut reader)?);
    let id_metas = reader.take(ids.saturating_mul(ID_META_BYTES))?;
    let metas = reader.take(attributes.saturating_mul(ATTRIBUTE_META_BYTES))?;
    let layer_metas = reader.take(layer.saturating_mul(ATTRIBUTE_META_BYTES))?;
    let mut text = Text::new(reader.rest)?;

    profile.ids.reserve_exact(ids);
    for meta in id_metas.chunks_exact(ID_META_BYTES) {
        let mut meta = Reader { rest: meta };
        let kind = IdKind::from_code(meta.u8()?).ok_or(DecodeError::Damaged("an unknown kind of id"))?;
        let seq = meta.seq()?;
        profile.ids.push(LinkedId { kind, seq, id: text.take(length_2(&mut meta)?)? });
    }
    profile.attributes = decode_attributes(metas, &mut text)?;
    profile.layer = decode_attributes(layer_metas, &mut text)?;
    if !text.0.is_empty() {
        return Err(DecodeError::Damaged("surplus bytes at its end"));
    }
    Ok(profile)
}

fn decode_attributes<'a>(metas: &[u8], text: &mut Text<'a>) -> Result<Vec<Attribute<'a>>, DecodeError> {
    let mut attributes: Vec<Attribute<'a>> = Vec::with_capacity(metas.len() / ATTRIBUTE_META_BYTES);
    for meta in metas.chunks_exact(ATTRIBUTE_META_BYTES) {
        let mut meta = Reader { rest: meta };
        let seq = meta.seq()?;
        let source = Source::from_code(meta.u8()?).ok_or(DecodeError::Damaged("an unknown source"))?;
        let (name, value) = (length_2(&mut meta)?, length_4(&mut meta)?);
        attributes.push(Attribute {
            name: text.take(name)?,
            value: text.take(value)?,
            seq,
            source,
            as_of: None,
        });
    }
    check_order(&attributes)?;
    Ok(attributes)
}

fn length_2(reader: &mut Reader<'_>) -> Result<usize, DecodeError> {
    reader.array().map(u16::from_le_bytes).map(usize::from)
}

fn length_4(reader: &mut Reader<'_>) -> Result<usize, DecodeError> {
    let number = reader.array().map(u32::from_le_bytes)?;
    usize::try_from(number).map_err(|_| DecodeError::Damaged("a count that is too large"))
}

#[cfg(test)]
mod tests {
    use super::super::history::History;
    use super::super::{Stored, StoredBytes, decode};
    use super::*;

    /// A profile with an id, an attribute and a layer attribute, laid out by hand.
    const BYTES: &[&[u8]] = &[
        &[1, 1],
        &9u64.to_le_bytes(),
        &3u64.to_le_bytes(),
        &4u64.to_le_bytes(),
        &9u64.to_le_bytes(),
        &9u64.to_le_bytes(),
        &1_700_000_000_000u64.to_le_bytes(),
        &[1, 0, 1, 0, 0, 0, 1, 0, 0, 0],
        &[1, 4, 0, 0, 0, 0, 0, 0, 0, 2, 0],
        &[4, 0, 0, 0, 0, 0, 0, 0, 1, 4, 0, 7, 0, 0, 0],
        &[9, 0, 0, 0, 0, 0, 0, 0, 5, 4, 0, 4, 0, 0, 0],
        "p1cityZürichtiergold".as_bytes(),
    ];

    fn profile() -> Profile<'static> {
        let (site, batch) = (Seq::from_u64(4), Seq::from_u64(9));
        Profile {
            applied_seq: batch,
            born: Seq::from_u64(3),
            last_site: site,
            last_batch: batch,
            last_write: batch,
            last_active: Millis(1_700_000_000_000),
            ids: vec![LinkedId { kind: IdKind::Pc, id: "p1", seq: site }],
            attributes: vec![Attribute {
                name: "city",
                value: "Zürich",
                seq: site,
                source: Source::Mbox,
                as_of: None,
            }],
            layer: vec![Attribute {
                name: "tier",
                value: "gold",
                seq: batch,
                source: Source::BatchV2,
                as_of: None,
            }],
            authors: vec![],
            history: History::default(),
        }
    }

    #[test]
    fn what_version_1_wrote_is_read_and_written_anew_says_the_same() {
        let bytes = BYTES.concat();
        let read = decode(&bytes).unwrap();
        assert_eq!(read, Stored::Profile(profile()));
        let anew = read.encode();
        assert!(anew.as_slice().len() < bytes.len() * 2 / 3, "{} of {}", anew.as_slice().len(), bytes.len());
        assert_eq!(anew.decode(), Ok(read));
        assert_eq!(StoredBytes::new(bytes.clone()).applied_seq(), anew.applied_seq());
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }
}
