//! Every choice of the builder is a hash of a name, so that a build repeats on any machine and a new
//! drawing never moves the old ones between splits.

use sha1::{Digest, Sha1};

/// First 48 bits of the SHA-1 of `text`.
pub(crate) fn hash48(text: &str) -> u64 {
    Sha1::digest(text.as_bytes())[..6]
        .iter()
        .fold(0, |value, &byte| value << 8 | u64::from(byte))
}

/// SHA-1 of `bytes` in lower-case hexadecimal.
pub(super) fn hex_digest(bytes: &[u8]) -> String {
    Sha1::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    // hashlib.sha1(b"abc").hexdigest() = a9993e364706816aba3e25717850c26c9cd0d89d
    #[test]
    fn agrees_with_the_standard() {
        assert_eq!(hash48("abc"), 0xa999_3e36_4706);
        assert_eq!(
            hex_digest(b"abc"),
            "a9993e364706816aba3e25717850c26c9cd0d89d"
        );
    }
}
