//! How large the parts of a batch file may be.

/// The longest row, in bytes as sent with its line end; a longer one is failed.
pub const ROW_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The longest header, in bytes as sent with its line end; a longer one refuses the batch.
pub const HEADER_BYTES_MAX: usize = 1024 * 1024;
/// The most attributes a header may name, so that a column always fits a [`RowError`](super::RowError).
pub const ATTRIBUTES_MAX: usize = 65_534;
/// How many line ends a quoted value may take in; with more its quote counts as stray.
pub const QUOTED_LINE_ENDS_MAX: u32 = 100;
/// How many bytes a quoted cell of more than one line may have as sent; with more its quote counts as stray.
pub const QUOTED_BYTES_MAX: usize = 64 << 10;
