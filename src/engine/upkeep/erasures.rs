//! The list of all erasures: which ids were erased by which write, for backups from before them.
//!
//! A backup that is restored brings back everybody who was erased after it. The list outlives the tombstones, which go once no older
//! file is left in the data folder. With it `profiled restore --after` erases those visitors again.
//!
//! ```text
//! DATA/erasures   first line: profiled erasures 1 SINCE SECRET
//!                 then for each erased id: SEQ SHA-256(SECRET, key), of which 128 bits
//! ```
//!
//! Promises: an erasure stands in the list before it is acknowledged. No id is in the list, and without the list nobody can tell which
//! ids it is about (R12). It is append-only, and a line that a crash cut off is skipped.

use crate::durable;
use crate::layout;
use crate::model::id::Key;
use crate::model::seq::Seq;
use crate::sync::{Mutex, lock};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

/// What the file is called, in the data folder.
const HEAD: &str = "profiled erasures 1";
const SECRET_BYTES: usize = 32;

/// The hash of an id.
type Hash = [u8; 16];

/// The list, open for appending.
#[derive(Debug)]
pub(in crate::engine) struct ErasureList {
    secret: [u8; SECRET_BYTES],
    file: Mutex<File>,
}

impl ErasureList {
    /// Opens the list of a data folder, or begins a list after this seq.
    pub(in crate::engine) fn open(folder: &Path, since: Seq) -> io::Result<Self> {
        let path = folder.join(layout::ERASURES);
        if !path.exists() {
            let mut secret = [0; SECRET_BYTES];
            getrandom::fill(&mut secret).map_err(io::Error::other)?;
            durable::replace(&path, "erasures", |file| {
                file.set_permissions(Permissions::from_mode(0o600))?;
                writeln!(file, "{HEAD} {since} {}", hex(&secret))
            })?;
        }
        let Erasures { secret, .. } = Erasures::read(&path)?;
        let file = durable::create(&path, OpenOptions::new().read(true).append(true))?;
        Ok(Self { secret, file: Mutex::new(file) })
    }

    /// A generated id for the visitor of this key, always the same in this data folder. Pages see it, so it is computed with
    /// the secret: otherwise whoever saw one could find the `thirdPartyId` behind it by trying them all.
    pub(in crate::engine) fn made_id(&self, number: u8, of: &Key) -> String {
        let hash = Sha256::new().chain_update(self.secret).chain_update(b"pcId\0").chain_update([number]);
        let digest: [u8; 32] = hash.chain_update(of.as_bytes()).finalize().into();
        hex(digest.first_chunk::<16>().unwrap_or(&[0; 16]))
    }

    /// What the backups of this data folder are marked with, and those of a folder that was restored from one of them.
    pub(in crate::engine) fn mark(&self) -> String {
        let hash: [u8; 32] =
            Sha256::new().chain_update(self.secret).chain_update(b"backups\0").finalize().into();
        hex(hash.first_chunk::<16>().unwrap_or(&[0; 16]))
    }

    /// Notes which ids were erased by which writes; durable when it returns.
    pub(in crate::engine) fn note(&self, erased: &[(Seq, Vec<Key>)]) -> io::Result<()> {
        if erased.is_empty() {
            return Ok(());
        }
        let mut file = lock(&self.file);
        let mut lines = String::new();
        let (length, mut last) = (file.metadata()?.len(), [0]);
        file.read_exact_at(&mut last, length.saturating_sub(1))?;
        if last != *b"\n" {
            // A line that a crash cut off must not run into the next.
            lines.push('\n');
        }
        for (seq, id) in erased.iter().flat_map(|(seq, ids)| ids.iter().map(move |id| (seq, id))) {
            // Writing to a string cannot fail.
            writeln!(lines, "{seq} {}", hex(&hash(&self.secret, id))).unwrap_or_default();
        }
        file.write_all(lines.as_bytes())?;
        file.sync_data()
    }
}

/// The content of a list.
#[derive(Debug)]
pub(in crate::engine) struct Erasures {
    secret: [u8; SECRET_BYTES],
    /// The list has all erasures after this seq.
    pub(in crate::engine) since: Seq,
    /// The ids, and which write erased each last.
    ids: HashMap<Hash, Seq>,
}

impl Erasures {
    /// Reads a list.
    pub(in crate::engine) fn read(path: &Path) -> io::Result<Self> {
        let text = fs::read_to_string(path)?;
        let no_list = || io::Error::new(io::ErrorKind::InvalidData, "it is no list of erasures");
        let mut lines = text.lines();
        let head = lines.next().and_then(|line| line.strip_prefix(HEAD)).ok_or_else(no_list)?;
        let (since, secret) = head.trim().split_once(' ').ok_or_else(no_list)?;
        let since = since.parse().map(Seq::from_u64).map_err(|_| no_list())?;
        let secret = unhex(secret).ok_or_else(no_list)?;
        let mut ids = HashMap::new();
        for line in lines {
            let read =
                line.split_once(' ').and_then(|(seq, id)| Some((seq.parse::<u64>().ok()?, unhex(id)?)));
            let Some((seq, id)) = read else { continue };
            let known = ids.entry(id).or_insert(Seq::ZERO);
            *known = Seq::from_u64(seq).max(*known);
        }
        Ok(Self { secret, since, ids })
    }

    /// Whether an id was erased after this seq.
    pub(in crate::engine) fn has(&self, id: &Key, after: Seq) -> bool {
        self.ids.get(&hash(&self.secret, id)).is_some_and(|seq| *seq > after)
    }
}

fn hash(secret: &[u8; SECRET_BYTES], id: &Key) -> Hash {
    let digest: [u8; 32] = Sha256::new().chain_update(secret).chain_update(id.as_bytes()).finalize().into();
    digest.first_chunk().copied().unwrap_or_default()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::id::{ClientCode, IdKind};

    #[test]
    fn the_list_knows_who_was_erased_after_a_seq_and_names_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(layout::ERASURES);
        let key = |id| Key::new(&ClientCode::new("demo").unwrap(), IdKind::ThirdParty, id);
        let at = Seq::from_u64;
        let list = ErasureList::open(folder.path(), at(5)).unwrap();
        list.note(&[(at(6), vec![key("visitor-2")]), (at(7), vec![key("visitor-1"), key("visitor-2")])])
            .unwrap();
        // As a crash may leave it.
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"9 00").unwrap();
        let list = ErasureList::open(folder.path(), at(9)).unwrap();
        list.note(&[(at(11), vec![key("visitor-1")])]).unwrap();
        let read = Erasures::read(&path).unwrap();
        assert_eq!(read.since, at(5));
        for (id, after, expected) in [
            ("visitor-1", 10, true),
            ("visitor-1", 11, false),
            ("visitor-2", 6, true),
            ("visitor-2", 7, false),
            ("visitor-3", 0, false),
        ] {
            assert_eq!(read.has(&key(id), at(after)), expected, "{id} after {after}");
        }
        assert!(!fs::read_to_string(&path).unwrap().contains("visitor"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    /// Pages see made ids, and a `thirdPartyId` is short: by a hash without a secret it could be found.
    #[test]
    fn an_id_of_our_making_is_the_same_in_its_folder_and_another_elsewhere() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let key = |id| Key::new(&ClientCode::new("demo").unwrap(), IdKind::ThirdParty, id);
        let made = |at: usize, number, id| {
            let list = ErasureList::open(folders[at].path(), Seq::ZERO).unwrap();
            list.made_id(number, &key(id))
        };
        assert_eq!(made(0, 0, "x"), made(0, 0, "x"));
        let others = [made(1, 0, "x"), made(0, 1, "x"), made(0, 0, "y")];
        assert!(!others.contains(&made(0, 0, "x")), "{others:?}");
    }
}
