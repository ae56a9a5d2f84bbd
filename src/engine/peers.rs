//! The other nodes of an order, as far as the engine needs them. The engine does not know where they are, nor how they are asked.

use crate::order::Offset;

/// The other nodes.
pub trait Peers: Send + Sync {
    /// This node has taken in a file of another one, and has everything before this offset among the pieces of files. Returns
    /// at once.
    fn took_in(&self, before: Offset);

    /// Waits until the other nodes that are there have taken in everything before this offset among the pieces of files; not
    /// long, and not for one that was waited for in vain before. Blocks.
    fn wait_for_files(&self, before: Offset);
}
