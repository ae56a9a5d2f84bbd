//! The names of all files and folders below a data folder. No other file spells one out.
//!
//! ```text
//! DATA/format                           the format of the folder, and the program that wrote it
//!     /unfinished                       a restore is filling the folder, or was interrupted
//!     /lock                             the running daemon holds its lock
//!     /tokens.json, tokens.lock         the access tokens, and the lock of whoever changes them
//!     /token-uses.json                  when each token was last used
//!     /audit.log                        the administrative acts
//!     /cluster                          which order of several nodes the folder belongs to
//!     /erasures                         the list of all erasures
//!     /erasing                          an erasure has bytes left on the disk
//!     /catalogue                        the complete batches
//!     /journal/0000000000000003.log     segments of the journal
//!     /snapshots/0000000000000002.snap  snapshots of the store
//!     /store/current                    names the generation of the store in use
//!     /store/0000000000000003/          a generation: the files of sled, and `checkpoint`
//!     /store/0000000000000002.aside/    a generation that a start set aside, with the reason in `WHY`
//!     /spool/0000000000000005.csv       uploads, each with `.index`, `.outcomes`, `.overwriting`, `.overwritten`
//!     /peer-snapshots/                  backups that are on their way to new nodes, or to a bucket
//!     /arriving/                        a backup that came from another node, until it is restored
//!     /damaged/                         damaged files that something else replaced, kept for inspection
//! ```
//!
//! `docs/internals/formats.md` describes what is in each file.

use std::path::{Path, PathBuf};

/// The stamp that says which format the folder has.
pub const FORMAT: &str = "format";
/// Marks a folder that a restore has not finished.
pub const UNFINISHED: &str = "unfinished";
/// The file that a running daemon locks.
pub const LOCK: &str = "lock";
/// The access tokens.
pub const TOKENS: &str = "tokens.json";
/// The file that a process locks while it changes the tokens.
pub const TOKENS_LOCK: &str = "tokens.lock";
/// When each token was last used.
pub const TOKEN_USES: &str = "token-uses.json";
/// The audit trail.
pub const AUDIT: &str = "audit.log";
/// Which order of several nodes the folder belongs to.
pub const CLUSTER: &str = "cluster";
/// The list of all erasures.
pub const ERASURES: &str = "erasures";
/// Marks that bytes of an erased visitor may still be on the disk.
pub const ERASING: &str = "erasing";
/// The catalogue of complete batches.
pub const CATALOGUE: &str = "catalogue";
/// The folder of the journal's segments.
pub const JOURNAL: &str = "journal";
/// The extension of a segment.
pub const SEGMENT: &str = "log";
/// The folder of the snapshots.
pub const SNAPSHOTS: &str = "snapshots";
/// The extension of a snapshot.
pub const SNAPSHOT: &str = "snap";
/// The folder of the store's generations.
pub const STORE: &str = "store";
/// The file that names the generation in use, in the store's folder.
pub const CURRENT: &str = "current";
/// The checkpoint, in a generation's folder.
pub const CHECKPOINT: &str = "checkpoint";
/// The extension of a generation that was set aside.
pub const ASIDE: &str = "aside";
/// The file that says why it was, in its folder.
pub const WHY: &str = "WHY";
/// sled's main file, in a generation's folder.
pub const SLED_DB: &str = "db";
/// The folder of the uploads.
pub const SPOOL: &str = "spool";
/// The extension of an upload.
pub const ROWS: &str = "csv";
/// The extension of an upload's index.
pub const INDEX: &str = "index";
/// The extension of the file with what its rows came to.
pub const OUTCOMES: &str = "outcomes";
/// The extension of the list of bytes of an upload that are being overwritten.
pub const OVERWRITING: &str = "overwriting";
/// The extension of the note that bytes of an upload were overwritten.
pub const OVERWRITTEN: &str = "overwritten";
/// The extension of a file that is being written and has no name yet.
pub const NEW: &str = "new";
/// The folder, and the extension, of damaged files that are kept for inspection.
pub const DAMAGED: &str = "damaged";
/// The folder of the backups that are sent elsewhere.
pub const PEER_SNAPSHOTS: &str = "peer-snapshots";
/// The folder of the backup that came from another node.
pub const ARRIVING: &str = "arriving";
/// What a backup says of itself, in the backup's folder.
pub const MANIFEST: &str = "backup.json";
/// What the name of a folder ends with while a restore or a backup fills it.
pub const PARTIAL: &str = ".partial";

/// The path of a numbered file: 16 hexadecimal digits and an extension.
pub fn numbered(folder: &Path, number: u64, extension: &str) -> PathBuf {
    folder.join(format!("{}.{extension}", digits(number)))
}

/// The number of a file with this extension; `None` if the name has another form.
pub fn number_of(name: &str, extension: &str) -> Option<u64> {
    number(name.strip_suffix(extension)?.strip_suffix('.')?)
}

/// A number as names spell it.
pub fn digits(number: u64) -> String {
    format!("{number:016x}")
}

/// The number that [`digits`] spelt so.
pub fn number(text: &str) -> Option<u64> {
    let number = u64::from_str_radix(text, 16).ok()?;
    (digits(number) == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_read_only_in_the_form_in_which_it_is_written() {
        #[track_caller]
        fn check(name: &str, expected: Option<u64>) {
            assert_eq!(number_of(name, "log"), expected, "{name}");
        }
        check("0000000000000003.log", Some(3));
        check("ffffffffffffffff.log", Some(u64::MAX));
        for other in ["3.log", "000000000000000A.log", "0000000000000003", "0000000000000003log", ".log", ""]
        {
            check(other, None);
        }
        check("+000000000000003.log", None);
        check("0000000000000003.snap", None);
        let path = numbered(Path::new("x"), 10, SEGMENT);
        assert_eq!(path, Path::new("x/000000000000000a.log"));
    }
}
