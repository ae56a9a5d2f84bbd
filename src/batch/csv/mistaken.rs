//! Recognises by its first bytes a body that is no batch file, such as a form or a spreadsheet. The sender needs to know what to
//! send instead, not the column of an error. The daemon, the dry run and `lint` use the same parser, so all of them say it.

use super::cell::trim_start;

/// How much of the first line is looked at for a `batch=` further on.
const LOOKED_AT_BYTES: usize = 64 << 10;

/// Files that say by their first bytes what they are.
const MAGIC: [(&[u8], Mistaken); 14] = [
    (b"\xff\xfe", Mistaken::Utf16),
    (b"\xfe\xff", Mistaken::Utf16),
    (b"PK\x03\x04", Mistaken::Zip),
    (b"PK\x05\x06", Mistaken::Zip),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", Mistaken::OldExcel),
    (b"%PDF-", Mistaken::Pdf),
    (b"\x1f\x8b", Mistaken::Compressed("gzip")),
    (b"\x28\xb5\x2f\xfd", Mistaken::Compressed("zstd")),
    (b"BZh", Mistaken::OtherwiseCompressed("bzip2")),
    (b"\xfd7zXZ\0", Mistaken::OtherwiseCompressed("xz")),
    (b"7z\xbc\xaf\x27\x1c", Mistaken::OtherwiseCompressed("7z")),
    (b"{", Mistaken::Json),
    (b"[", Mistaken::Json),
    (b"<", Mistaken::Markup),
];

/// What a body is that is no batch file. `Display` says it, and what to send instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Mistaken {
    /// Text as Windows programs and Excel save it under "Unicode".
    #[error(
        "the body looks like UTF-16 (Excel saves \"Unicode Text\" so): it must be UTF-8; save it as \"CSV UTF-8\", or \
         convert it with iconv -f UTF-16 -t UTF-8"
    )]
    Utf16,
    /// A zip file, which an xlsx file is, too.
    #[error(
        "the body is a zip file, or a spreadsheet (xlsx), which is one: send the text, saved as \"CSV UTF-8\", or \
         compressed with gzip, zstd or deflate"
    )]
    Zip,
    /// An xls file.
    #[error("the body is an old Excel file (xls): send the text, saved as \"CSV UTF-8\"")]
    OldExcel,
    /// A PDF file.
    #[error("the body is a PDF file: send the text, saved as \"CSV UTF-8\"")]
    Pdf,
    /// An encoding that is taken, which nobody named.
    #[error("the body looks compressed with {0}: say so by the header Content-Encoding: {0}")]
    Compressed(&'static str),
    /// An encoding that is not taken.
    #[error(
        "the body looks compressed with {0}, which is not taken: send it as it is, or compressed with gzip, zstd or deflate"
    )]
    OtherwiseCompressed(&'static str),
    /// JSON.
    #[error(
        "the body looks like JSON: a batch is a CSV file, and its first line begins with \"batch=pcId,\" or \
         \"batch=thirdPartyId,\"; POST /api/v1/batches also takes NDJSON, an object a line, with Content-Type: \
         application/x-ndjson"
    )]
    Json,
    /// XML or HTML.
    #[error(
        "the body looks like XML or HTML: a batch is a CSV file, and its first line begins with \"batch=pcId,\" or \
         \"batch=thirdPartyId,\""
    )]
    Markup,
    /// `multipart/form-data`, under whatever content type.
    #[error(
        "the body is a multipart form (curl -F, or a form with a file in it): send the file itself, \
         curl --data-binary @FILE"
    )]
    Multipart,
    /// A form in which other fields come first.
    #[error("batch= must come first: send what stands before it as parameters of the URL, or leave it out")]
    BatchBehind,
    /// What spreadsheets read to know how columns are separated.
    #[error(
        "the line sep= is for spreadsheets alone: remove it, the first line must begin with \"batch=pcId,\" or \
         \"batch=thirdPartyId,\""
    )]
    SeparatorLine,
    /// Columns that something else separates.
    #[error(
        "the columns are separated by {0}: it must be commas; save the file as CSV with commas, or replace them"
    )]
    Separator(&'static str),
    /// A file without line ends.
    #[error(
        "the body is a single line, so that it names attributes and holds no row. If the file has more lines, their ends \
         were lost on the way: curl -d @FILE takes them away, send it with curl --data-binary @FILE. Each visitor needs a \
         line of its own"
    )]
    OneLine,
}

impl Mistaken {
    /// What a body is that begins so, if it is known; `row` is its first line, or the beginning of that.
    pub(super) fn of(row: &[u8]) -> Option<Self> {
        let row = trim_start(row);
        if let Some((_, what)) = MAGIC.iter().find(|(magic, _)| row.starts_with(magic)) {
            return Some(*what);
        }
        // A letter in two bytes, with no mark before it.
        if row.get(..2).is_some_and(|letter| letter.contains(&0)) {
            return Some(Self::Utf16);
        }
        if let Some(boundary) = row.strip_prefix(b"--")
            && boundary.first().is_some_and(|first| first.is_ascii_graphic() && *first != b',')
        {
            return Some(Self::Multipart);
        }
        let sep = row.strip_prefix(b"batch=").unwrap_or(row);
        if sep.get(..4).is_some_and(|sep| sep.eq_ignore_ascii_case(b"sep=")) {
            return Some(Self::SeparatorLine);
        }
        let looked_at = row.get(..LOOKED_AT_BYTES).unwrap_or(row);
        let behind = memchr::memmem::find(looked_at, b"&batch=").is_some() && !row.starts_with(b"batch=");
        behind.then_some(Self::BatchBehind)
    }

    /// The same by a first cell that names no key.
    pub(super) fn of_key(name: &str, is_key: impl Fn(&str) -> bool) -> Option<Self> {
        const OTHERS: [(char, &str); 4] =
            [(';', "semicolons"), ('\t', "tabs"), ('|', "vertical bars"), ('\u{ff0c}', "fullwidth commas")];
        let (key, rest) = name.split_once(|c| OTHERS.iter().any(|(other, _)| *other == c))?;
        let found = name.get(key.len()..name.len() - rest.len())?.chars().next()?;
        let (_, separator) = OTHERS.iter().find(|(other, _)| *other == found)?;
        is_key(key.trim()).then_some(Self::Separator(separator))
    }
}
