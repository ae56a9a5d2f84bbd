//! The values of a row, as a reader finds them.

use super::fault::Reason;

/// Where in a row's text the value of an attribute is. Once the row has ended, none is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) attribute: usize,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// The buffers that an object is read into.
pub(super) struct Values<'b> {
    pub(super) text: &'b mut String,
    pub(super) key: &'b mut String,
    /// The values as they come, also the empty ones.
    pub(super) found: &'b mut Vec<Value>,
    /// Of these attributes the value is empty, once the row has ended.
    pub(super) emptied: &'b mut Vec<usize>,
}

impl Values<'_> {
    /// Puts the values in the order of their attributes, and the empty ones apart.
    pub(super) fn end(&mut self) -> Result<(), Reason> {
        self.found.sort_unstable_by_key(|value| value.attribute);
        if self.found.windows(2).any(|two| matches!(two, [a, b] if a.attribute == b.attribute)) {
            return Err(Reason::DuplicateName);
        }
        let emptied = &mut *self.emptied;
        self.found.retain(|value| {
            let empty = value.start == value.end;
            if empty {
                emptied.push(value.attribute);
            }
            !empty
        });
        Ok(())
    }
}
