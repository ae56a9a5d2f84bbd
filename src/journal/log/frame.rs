//! A frame's bytes: the journal's layout, and what is wrong where there is no frame.

use crate::durable::record::{Checksum, FrameLayout, LengthOf};

/// The longest payload, in bytes. It is far above any commit group, and bounds what a reader must hold.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 30;

/// A frame begins at a multiple of this.
pub(super) const ALIGNMENT: usize = 8;
/// How many bytes a frame's header takes.
pub(super) const FRAME_HEADER_BYTES: u64 = FRAME.header_bytes() as u64;

/// The layout. See the format in the [module's head](super). A reader allows any length that the segment can hold.
pub(super) const FRAME: FrameLayout = FrameLayout {
    has_kind: false,
    length: LengthOf::HeaderAndPayload,
    checksum: Checksum::OfPayloadAndHeader,
    alignment: ALIGNMENT,
    payload_bytes: 0..=u32::MAX as usize,
};

/// A frame has no kind: what its payload means is the caller's business.
pub(super) const NO_KIND: [u8; 4] = [0; 4];

/// A valid frame in a window.
pub(super) struct Frame<'w> {
    /// All of it: header, payload, padding.
    pub(super) whole: &'w [u8],
    /// What the caller gave.
    pub(super) payload: &'w [u8],
    /// Where the next frame begins.
    pub(super) end: u64,
    /// Whether the header of another frame follows. Then this frame was confirmed.
    pub(super) followed: bool,
}

/// A number of bytes to hold in memory: at most a frame's.
pub(super) fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
