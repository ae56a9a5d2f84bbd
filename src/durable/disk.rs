//! The seam to the disk: what the journal and the snapshots ask of it beyond reading. Tests put a failing disk behind the
//! same trait.
//!
//! Promises: [`SystemDisk`] does exactly what its names say, and tries nothing again. The test double `FaultyDisk` writes
//! for real but never syncs, so thousands of opens take no time; only a power cut could tell the difference.

use super::failpoint::Failpoint;
use rustix::io::Errno;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What a writer asks of a disk.
pub trait Disk: fmt::Debug + Send {
    /// Makes a file this long, with zeros in what is new, and reserves the space.
    fn reserve(&self, file: &File, bytes: u64) -> io::Result<()>;
    /// Writes all of these bytes at an offset.
    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes durable what was written to a file whose length does not change.
    fn sync_data(&self, file: &File) -> io::Result<()>;
    /// Makes all of a file durable, its length too.
    fn sync(&self, file: &File) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_folder(&self, folder: &File) -> io::Result<()>;
    /// Gives a file another name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
}

/// The points that a [`SystemDisk`] passes. Each user names its own.
#[derive(Debug)]
pub struct DiskPoints {
    /// Before space is reserved.
    pub reserve: Failpoint,
    /// Before bytes are written.
    pub write: Failpoint,
    /// Where a test can have bytes not written at all, without an error.
    pub write_left_out: Option<Failpoint>,
    /// Before data is synced.
    pub sync_data: Failpoint,
    /// Where a test can have data not synced at all, without an error.
    pub sync_data_left_out: Option<Failpoint>,
    /// After data was synced.
    pub data_synced: Option<Failpoint>,
    /// Before a file is synced.
    pub sync: Failpoint,
    /// Before a folder is synced.
    pub sync_folder: Failpoint,
    /// Before a file is renamed.
    pub rename: Failpoint,
}

/// The operating system's disk.
#[derive(Debug)]
pub struct SystemDisk(pub &'static DiskPoints);

impl Disk for SystemDisk {
    fn reserve(&self, file: &File, bytes: u64) -> io::Result<()> {
        self.0.reserve.pass()?;
        let reserve = || rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes);
        match rustix::io::retry_on_intr(reserve) {
            // This file system can't reserve space, so it is filled instead.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_zeros(file, file.metadata()?.len(), bytes),
            done => Ok(done?),
        }
    }

    fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.0.write_left_out.is_some_and(Failpoint::leaves_out) {
            return Ok(());
        }
        self.0.write.pass()?;
        file.write_all_at(bytes, offset)
    }

    fn sync_data(&self, file: &File) -> io::Result<()> {
        if self.0.sync_data_left_out.is_some_and(Failpoint::leaves_out) {
            return Ok(());
        }
        self.0.sync_data.pass()?;
        file.sync_data()?;
        self.0.data_synced.map_or(Ok(()), Failpoint::pass)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        self.0.sync.pass()?;
        file.sync_all()
    }

    fn sync_folder(&self, folder: &File) -> io::Result<()> {
        self.0.sync_folder.pass()?;
        folder.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename.pass()?;
        fs::rename(from, to)
    }
}

/// Writes zeros from one offset to another.
pub fn write_zeros(file: &File, mut from: u64, to: u64) -> io::Result<()> {
    static ZEROS: [u8; 4096] = [0; 4096];
    while from < to {
        let zeros = usize::try_from(to - from).ok().and_then(|left| ZEROS.get(..left)).unwrap_or(&ZEROS);
        file.write_all_at(zeros, from)?;
        from += zeros.len() as u64;
    }
    Ok(())
}

/// Whether the operating system refused because something ran out that may come back: disk space, a quota, file handles.
pub fn is_full(error: &io::Error) -> bool {
    let out_of_space = matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    );
    out_of_space || matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

#[cfg(test)]
pub(crate) use double::{FaultyDisk, Operation};

#[cfg(test)]
mod double {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// What a The test double `FaultyDisk` can fail at.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Operation {
        Reserve,
        Write,
        SyncData,
        Sync,
        SyncFolder,
        Rename,
    }

    /// Fails at one kind of operation, half-way through it, for as long as a test says. Clones share the fault.
    #[derive(Debug, Clone, Default)]
    pub(crate) struct FaultyDisk(Arc<Mutex<Option<(Operation, Errno)>>>);

    impl FaultyDisk {
        /// From now on this operation fails so; none does after `None`.
        pub(crate) fn set(&self, fault: Option<(Operation, Errno)>) {
            *self.0.lock().unwrap() = fault;
        }

        fn fails_at(&self, operation: Operation) -> io::Result<()> {
            match *self.0.lock().unwrap() {
                Some((at, error)) if at == operation => Err(error.into()),
                _ => Ok(()),
            }
        }
    }

    impl Disk for FaultyDisk {
        fn reserve(&self, file: &File, bytes: u64) -> io::Result<()> {
            self.fails_at(Operation::Reserve).inspect_err(|_| file.set_len(bytes / 2).unwrap())?;
            file.set_len(bytes)
        }

        fn write(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
            let half = &bytes[..bytes.len() / 2];
            self.fails_at(Operation::Write).inspect_err(|_| file.write_all_at(half, offset).unwrap())?;
            file.write_all_at(bytes, offset)
        }

        fn sync_data(&self, _: &File) -> io::Result<()> {
            self.fails_at(Operation::SyncData)
        }

        fn sync(&self, _: &File) -> io::Result<()> {
            self.fails_at(Operation::Sync)
        }

        fn sync_folder(&self, _: &File) -> io::Result<()> {
            self.fails_at(Operation::SyncFolder)
        }

        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.fails_at(Operation::Rename)?;
            fs::rename(from, to)
        }
    }
}
