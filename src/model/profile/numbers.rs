//! Numbers in the bytes of a profile: seven bits a byte, lowest first; the eighth bit is set in every byte except the last.

/// Appends a length, or an index.
pub(super) fn put_number(number: usize, out: &mut Vec<u8>) {
    put_number_u64(number as u64, out);
}

/// Appends any number.
pub(super) fn put_number_u64(mut number: u64, out: &mut Vec<u8>) {
    loop {
        let [low, ..] = number.to_le_bytes();
        number >>= 7;
        if number == 0 {
            out.push(low & 0x7f);
            return;
        }
        out.push(low | 0x80);
    }
}
