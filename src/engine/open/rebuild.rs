//! Opens the store of a data folder, and rebuilds it where it cannot be trusted, without a person.
//!
//! Promises: a store that does not open, panics, reaches less far than it must, or has no checkpoint is set aside. Another is filled in
//! a fresh folder from the newest snapshot that verifies, the journal behind it and the uploads. It is used only once it is whole, so a
//! crash on the way changes nothing. Damage in the journal is never repaired: it is refused.

use crate::config::Config;
use crate::engine::disk_space::DiskSpace;
use crate::engine::error::OpenError;
use crate::engine::open::recovery::{Recovered, StartFrom, read_checkpoint, recover};
use crate::engine::open::store_folder::{Generation, StoreFolder};
use crate::journal::log::{LogSettings, Position};
use crate::journal::snapshot::{SnapshotError, SnapshotReader, Snapshots, verify};
use crate::layout;
use crate::model::codec::CodecError;
use crate::model::id::Key;
use crate::model::profile::StoredBytes;
use crate::store::sled::SledStore;
use crate::store::{ProfileStore, StoreError, put_if_newer};
use crate::sync::unpoisoned;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// After how many pairs of a snapshot a start reports its progress.
const SAY_EVERY: u64 = 100_000;
/// After how many pairs it looks whether to go on.
const GO_ON_EVERY: u64 = 1000;

/// The progress of a start, for whoever asks meanwhile.
#[derive(Debug, Clone, Default)]
pub struct Opening(Arc<Mutex<String>>);

impl Opening {
    /// What the start is doing.
    pub fn at(&self) -> String {
        let at = unpoisoned(self.0.lock());
        if at.is_empty() { "the daemon is starting".to_owned() } else { at.clone() }
    }

    pub(in crate::engine) fn say(&self, at: String) {
        tracing::info!("{at}");
        *unpoisoned(self.0.lock()) = at;
    }
}

/// An opened data folder.
pub(in crate::engine) struct Opened {
    pub(in crate::engine) store: Arc<dyn ProfileStore>,
    pub(in crate::engine) stores: StoreFolder,
    /// The generation of the store.
    pub(in crate::engine) generation: Generation,
    /// Whether the store was rebuilt just now. Its generation is not the one in use yet.
    pub(in crate::engine) made: bool,
    pub(in crate::engine) snapshots: Snapshots,
    pub(in crate::engine) recovered: Recovered,
}

/// Opens sled, even where sled would panic.
pub(in crate::engine) fn open_sled(folder: &Path, cache_bytes: u64) -> Result<SledStore, StoreError> {
    SledStore::open(folder, cache_bytes)
}

fn caught<T, E: From<StoreError>>(run: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked");
        Err(StoreError::Failed { doing: "open", why: said.to_owned() }.into())
    })
}

/// Opens a data folder.
pub(in crate::engine) fn open(
    config: &Config,
    disk_space: &DiskSpace,
    opening: &Opening,
) -> Result<Opened, OpenError> {
    let folder = &config.server.data_folder;
    let store_folder = folder.join(layout::STORE);
    let failed = |error| OpenError::Folder { path: store_folder.clone(), error };
    let snapshots = Snapshots::open(&folder.join(layout::SNAPSHOTS))?;
    let mut stores = StoreFolder::open(&store_folder).map_err(failed)?;
    let recovered = |store: &SledStore, from| {
        let log = LogSettings { segment_bytes: config.upkeep.journal_segment_bytes };
        caught(|| recover(folder, store, from, log, config.limits.spool_bytes_max))
    };

    if let Some(current) = stores.current() {
        // A checkpoint of a later program is not damaged, and its store must not be set aside.
        let path = current.checkpoint_path();
        if let Err(error) = read_checkpoint(&path)
            && error.kind() == std::io::ErrorKind::Unsupported
        {
            return Err(OpenError::Later { path, why: error.to_string() });
        }
    }
    let opened = stores.open_current(|path| open_sled(path, config.store_cache_bytes()));
    let why = match opened {
        Ok(None) => {
            if snapshots.list()?.into_iter().next().is_some()
                || Position::first_in(&folder.join(layout::JOURNAL))?.is_some()
            {
                tracing::warn!(folder = %store_folder.display(), "there is no store: it is rebuilt");
            }
            None
        }
        Err(why) => Some(why),
        Ok(Some((store, checkpoint))) => match recovered(&store, StartFrom::Checkpoint(checkpoint)) {
            Ok(recovered) => {
                let (store, generation) = (Arc::new(store) as _, stores.current());
                let generation = generation.ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))?;
                return Ok(Opened { store, stores, generation, made: false, snapshots, recovered });
            }
            Err(OpenError::Store(error)) => Some(error.to_string()),
            Err(error) => return Err(error),
        },
    };
    if let Some(why) = why {
        if let Err(full) = disk_space.for_checkpoints() {
            // A store that was set aside would take the space that the next one needs.
            return Err(OpenError::NoRoom { folder: folder.clone(), full: full.to_string(), why });
        }
        let aside = stores.set_aside(&why).map_err(failed)?.unwrap_or_default();
        tracing::error!(%why, aside = %aside.display(), "the store cannot be trusted: it is set aside and rebuilt");
    }

    let generation = stores.begin().map_err(failed)?;
    let store = open_sled(&generation.path, config.store_cache_bytes())?;
    let from = newest_snapshot(&snapshots, &store, opening, &|| Ok(()))?;
    if !matches!(from, StartFrom::Nothing) {
        opening.say("the journal behind the snapshot is read".into());
    }
    let recovered = recovered(&store, from)?;
    Ok(Opened { store: Arc::new(store), stores, generation, made: true, snapshots, recovered })
}

/// Fills a store from the newest snapshot that verifies. A snapshot that does not is renamed, so that nothing relies on it.
pub(in crate::engine) fn newest_snapshot(
    snapshots: &Snapshots,
    store: &dyn ProfileStore,
    opening: &Opening,
    go_on: &dyn Fn() -> Result<(), OpenError>,
) -> Result<StartFrom, OpenError> {
    for (path, _) in snapshots.list()? {
        match verify(&path) {
            Ok((checkpoint, summary)) => {
                let mut reader = SnapshotReader::open(&path)?;
                let mut done = 0_u64;
                while let Some((key, value)) = reader.next_pair()? {
                    let key = Key::from_bytes(key).ok_or_else(|| OpenError::SnapshotKey(path.clone()))?;
                    put_if_newer(store, &key, None, &StoredBytes::new(value))?;
                    done += 1;
                    if done.is_multiple_of(GO_ON_EVERY) {
                        go_on()?;
                    }
                    if done.is_multiple_of(SAY_EVERY) {
                        let all = summary.count;
                        opening.say(format!(
                            "the store is being rebuilt: {done} of {all} values of the snapshot"
                        ));
                    }
                }
                return Ok(StartFrom::Snapshot(checkpoint));
            }
            Err(
                error @ (SnapshotError::Version { .. }
                | SnapshotError::Checkpoint { source: CodecError::Version { .. }, .. }),
            ) => {
                return Err(OpenError::Later { why: error.to_string(), path });
            }
            Err(error) => {
                let aside = snapshots.set_aside(&path)?;
                tracing::error!(%error, aside = %aside.display(), "a snapshot is of no use: the one before it is tried");
            }
        }
    }
    Ok(StartFrom::Nothing)
}
