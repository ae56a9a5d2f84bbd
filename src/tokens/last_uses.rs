//! When each token was last used. This module owns the file `token-uses.json` of the data folder.
//!
//! Promises: noting a use takes no lock and touches no file. A time is at most a minute earlier than the last use. What was noted
//! after the last save is lost if the process dies. A file that is missing or damaged only loses what it said.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};

use crate::durable;
use crate::layout;
use crate::model::seq::Millis;
use crate::sync::{AtomicBool, AtomicU64, Ordering};

/// The version of the file's format.
const VERSION: u32 = 1;
/// A use within this time of the one that is noted is not noted.
const MINUTE_MS: u64 = 60_000;
/// Stands for a token that was not used.
const NEVER: u64 = 0;

/// When each token was last used.
#[derive(Default)]
pub(super) struct LastUses {
    /// By the token's id, in milliseconds since the epoch. Replaced whole when there are other tokens; a call reads it without
    /// waiting.
    by_id: ArcSwap<BTreeMap<String, Arc<AtomicU64>>>,
    /// Whether a use was noted that the file does not have.
    unsaved: AtomicBool,
}

/// Why the file says nothing.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", path.display())]
pub struct LastUsesError {
    path: PathBuf,
    why: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Stored {
    version: u32,
    last_used_at_ms: BTreeMap<String, u64>,
    /// The checksum of the times.
    crc32c: u32,
}

fn sum(times: &BTreeMap<String, u64>) -> io::Result<u32> {
    Ok(crc32c::crc32c(&serde_json::to_vec(times)?))
}

/// When the tokens of a data folder were last used, by their ids, as the file says; nothing if there is no file.
pub fn last_uses_in(folder: &Path) -> Result<BTreeMap<String, Millis>, LastUsesError> {
    let path = folder.join(layout::TOKEN_USES);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(LastUsesError { path, why: error.to_string() }),
    };
    match understood(&text) {
        Ok(times) => Ok(times.into_iter().map(|(id, at)| (id, Millis(at))).collect()),
        Err(why) => Err(LastUsesError { path, why }),
    }
}

fn understood(text: &[u8]) -> Result<BTreeMap<String, u64>, String> {
    let Stored { version, last_used_at_ms, crc32c } =
        serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if version != VERSION {
        return Err(format!("it has version {version}; this program reads version {VERSION}"));
    }
    if sum(&last_used_at_ms).ok() != Some(crc32c) {
        return Err("its times do not match their checksum".into());
    }
    Ok(last_used_at_ms)
}

impl LastUses {
    /// These times.
    pub(super) fn from_file(times: BTreeMap<String, Millis>) -> Self {
        let by_id = times.into_iter().map(|(id, at)| (id, Arc::new(AtomicU64::new(at.0)))).collect();
        Self { by_id: ArcSwap::from_pointee(by_id), unsaved: AtomicBool::new(false) }
    }

    /// Keeps a time for each of these tokens, and for no other. Only one thread at a time may call it.
    pub(super) fn keep<'a>(&self, ids: impl Iterator<Item = &'a str>) {
        let before = self.by_id.load();
        let time = |id: &str| before.get(id).map_or_else(|| Arc::new(AtomicU64::new(NEVER)), Arc::clone);
        let now = ids.map(|id| (id.to_owned(), time(id))).collect();
        self.by_id.store(Arc::new(now));
    }

    /// Notes that a token was used now.
    pub(super) fn note(&self, id: &str, now: Millis) {
        let by_id = self.by_id.load();
        let Some(at) = by_id.get(id) else { return };
        // Most calls come within a minute of another one, and change nothing that another core has to read again.
        if at.load(Ordering::Relaxed) / MINUTE_MS != now.0 / MINUTE_MS {
            at.store(now.0, Ordering::Relaxed);
            self.unsaved.store(true, Ordering::Release);
        }
    }

    /// When a token was last used; none if it was not, as far as is known.
    pub(super) fn of(&self, id: &str) -> Option<Millis> {
        let at = self.by_id.load().get(id)?.load(Ordering::Relaxed);
        (at != NEVER).then_some(Millis(at))
    }

    /// Writes the file, if it lacks a use. Blocks.
    pub(super) fn save(&self, folder: &Path) -> io::Result<()> {
        if !self.unsaved.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let saved = self.write(&folder.join(layout::TOKEN_USES));
        if saved.is_err() {
            self.unsaved.store(true, Ordering::Release);
        }
        saved
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let times = self.by_id.load();
        let times = times.iter().map(|(id, at)| (id.clone(), at.load(Ordering::Relaxed)));
        let last_used_at_ms = times.filter(|(_, at)| *at != NEVER).collect();
        let stored = Stored { version: VERSION, crc32c: sum(&last_used_at_ms)?, last_used_at_ms };
        let text = serde_json::to_vec_pretty(&stored)?;
        durable::replace(path, "token-uses", |file| {
            file.set_permissions(Permissions::from_mode(0o600))?;
            file.write_all(&text)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Millis = Millis(12 * 60 * MINUTE_MS);

    fn of_tokens(ids: &[&str]) -> LastUses {
        let uses = LastUses::default();
        uses.keep(ids.iter().copied());
        uses
    }

    #[test]
    fn a_use_is_noted_to_the_minute_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(layout::TOKEN_USES);
        let uses = of_tokens(&["1a", "2b"]);
        uses.save(folder.path()).unwrap();
        assert!(!path.exists(), "nothing was used");
        for later in [0, 5, MINUTE_MS - 1] {
            uses.note("1a", NOON.plus(later));
            assert_eq!(uses.of("1a"), Some(NOON), "{later}");
        }
        uses.note("nobody's", NOON);
        uses.save(folder.path()).unwrap();
        let read = last_uses_in(folder.path()).unwrap();
        assert_eq!(read, BTreeMap::from([("1a".to_owned(), NOON)]));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        let uses = LastUses::from_file(read);
        uses.keep(["1a", "3c"].into_iter());
        assert_eq!((uses.of("1a"), uses.of("3c")), (Some(NOON), None));
        uses.note("1a", NOON.plus(MINUTE_MS));
        assert_eq!(uses.of("1a"), Some(NOON.plus(MINUTE_MS)));
        // The machine's clock stepped back.
        uses.note("1a", NOON);
        assert_eq!(uses.of("1a"), Some(NOON));
    }

    #[test]
    fn the_file_is_written_only_if_a_use_is_new_and_tried_again_if_it_fails() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(layout::TOKEN_USES);
        let uses = of_tokens(&["1a"]);
        uses.note("1a", NOON);
        // A folder in its place.
        fs::create_dir(&path).unwrap();
        uses.save(folder.path()).unwrap_err();
        fs::remove_dir(&path).unwrap();
        uses.save(folder.path()).unwrap();
        fs::remove_file(&path).unwrap();
        uses.note("1a", NOON.plus(1));
        uses.save(folder.path()).unwrap();
        assert!(!path.exists(), "within the same minute nothing is new");
    }

    #[test]
    fn a_token_that_is_new_or_gone_leaves_the_others_as_they_were() {
        let uses = of_tokens(&["1a"]);
        uses.note("1a", NOON);
        uses.keep(["1a", "2b"].into_iter());
        uses.note("2b", NOON.plus(MINUTE_MS));
        assert_eq!((uses.of("1a"), uses.of("2b")), (Some(NOON), Some(NOON.plus(MINUTE_MS))));
        uses.keep(["2b"].into_iter());
        assert_eq!((uses.of("1a"), uses.of("2b")), (None, Some(NOON.plus(MINUTE_MS))));
    }

    #[test]
    fn a_file_that_is_damaged_says_why_and_none_says_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(layout::TOKEN_USES);
        assert!(last_uses_in(folder.path()).unwrap().is_empty());
        let uses = of_tokens(&["1a"]);
        uses.note("1a", NOON);
        uses.save(folder.path()).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let check = |text: &str, says: &str| {
            fs::write(&path, text).unwrap();
            let error = last_uses_in(folder.path()).unwrap_err().to_string();
            assert!(error.contains(says) && error.contains(layout::TOKEN_USES), "{text}: {error}");
        };
        check(&text.replace("43200000", "43200001"), "do not match their checksum");
        check(&text.replace("\"1a\"", "\"1b\""), "do not match their checksum");
        check(&text.replace("\"version\": 1", "\"version\": 2"), "version 2");
        check("", "EOF");
        check("{}", "version");
    }
}
