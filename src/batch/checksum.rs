//! Whether an uploaded file is what was accepted: its length, and the CRC-32C that was taken as the body streamed in.
//!
//! Promises: a file that differs in one bit is never applied. The error names the file, what it has and what it should have.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

const READ_BYTES: usize = 1 << 20;

/// Length and checksum of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSum {
    /// Its length.
    pub bytes: u64,
    /// Its CRC-32C. `None` if an earlier version of the program took none.
    pub crc32c: Option<u32>,
}

/// A file that is not what was accepted. The message says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "its file {} is damaged: it has {found}, not {expected}. Its rows are not applied: put it back as it was, from a \
     backup or as it was sent",
    path.display()
)]
pub struct Damage {
    path: PathBuf,
    found: FileSum,
    expected: FileSum,
}

/// Why an uploaded file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The system refused something.
    #[error("its file {} cannot be read: {error}", path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// It is not what was accepted.
    #[error(transparent)]
    Damaged(#[from] Damage),
}

impl UploadError {
    /// Whether trying again won't help: the file is missing, is not what was accepted, or nothing says any more what it should
    /// be.
    pub fn is_lost(&self) -> bool {
        match self {
            Self::Unreadable { error, .. } => {
                matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData)
            }
            Self::Damaged(_) => true,
        }
    }

    /// What is wrong, for readers who need not know where the file is.
    pub fn in_short(&self) -> String {
        match self {
            Self::Unreadable { error, .. } if error.kind() == io::ErrorKind::NotFound => "it is gone".into(),
            Self::Unreadable { error, .. } if error.kind() == io::ErrorKind::InvalidData => {
                "the note of which rows were erased, with the file's checksum since, cannot be read".into()
            }
            Self::Unreadable { error, .. } => format!("it cannot be read: {error}"),
            Self::Damaged(damage) => damage.in_short(),
        }
    }

    /// What the system said of a file.
    pub fn of(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        |error| Self::Unreadable { path, error }
    }
}

impl Damage {
    /// What is wrong, for readers who need not know where the file is.
    pub fn in_short(&self) -> String {
        format!("it has {}, not {}", self.found, self.expected)
    }
}

impl FileSum {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self { bytes: bytes.len() as u64, crc32c: Some(crc32c::crc32c(bytes)) }
    }

    /// Of a file, read to its end.
    pub fn of_file(path: &Path) -> io::Result<Self> {
        let (mut file, mut read_bytes) = (File::open(path)?, vec![0; READ_BYTES]);
        let (mut bytes, mut crc32c) = (0, 0);
        loop {
            let read = file.read(&mut read_bytes)?;
            let Some(read) = read_bytes.get(..read).filter(|read| !read.is_empty()) else { break };
            bytes += read.len() as u64;
            crc32c = crc32c::crc32c_append(crc32c, read);
        }
        Ok(Self { bytes, crc32c: Some(crc32c) })
    }

    /// Checks what was found in a file against what it should be.
    pub fn check(&self, path: &Path, found: Self) -> Result<(), Damage> {
        if found.bytes == self.bytes && (self.crc32c.is_none() || found.crc32c == self.crc32c) {
            return Ok(());
        }
        Err(Damage { path: path.to_owned(), found, expected: *self })
    }

    /// Reads a file piece by piece and checks it. What `each` saw counts only if there is no error.
    pub(super) fn read_pieces(&self, path: &Path, mut each: impl FnMut(&[u8])) -> Result<(), UploadError> {
        let unreadable = UploadError::of(path);
        let mut read = || {
            let (mut file, mut piece) = (File::open(path)?, vec![0; READ_BYTES]);
            let (mut bytes, mut crc32c) = (0, 0);
            // One byte more shows whether there is more; how much more does not matter.
            while bytes <= self.bytes {
                let read = file.read(&mut piece)?;
                let Some(read) = piece.get(..read).filter(|read| !read.is_empty()) else { break };
                bytes += read.len() as u64;
                crc32c = crc32c::crc32c_append(crc32c, read);
                each(read);
            }
            Ok(Self { bytes, crc32c: Some(crc32c) })
        };
        Ok(self.check(path, read().map_err(unreadable)?)?)
    }

    /// Reads a whole file that should be this. The caller must still check it.
    pub(super) fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        // One byte more shows whether there is more; how much more does not matter.
        let most = self.bytes.saturating_add(1);
        let mut bytes = Vec::with_capacity(usize::try_from(most).unwrap_or_default());
        File::open(path)?.take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

impl fmt::Display for FileSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes)?;
        self.crc32c.map_or(Ok(()), |crc32c| write!(f, " with the checksum {crc32c:08x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_known_checksum_is_checked_by_its_length() {
        let path = Path::new("x.csv");
        let unknown = FileSum { bytes: 3, crc32c: None };
        assert_eq!(unknown.check(path, FileSum::of(b"abc")), Ok(()));
        let damage = unknown.check(path, FileSum::of(b"ab")).unwrap_err();
        assert!(
            damage.to_string().contains("x.csv is damaged: it has 2 bytes with the checksum"),
            "{damage}"
        );
        assert!(damage.to_string().contains(", not 3 bytes."), "{damage}");
    }
}
