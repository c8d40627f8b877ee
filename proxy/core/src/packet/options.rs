//! The TCP options that carry numbers of the connection.

use core::ops::Range;

/// Where they are in the header.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// Timestamp and echo: 8 bytes.
    pub timestamps: Option<Range<usize>>,
    /// Up to four SACK blocks of 8 bytes.
    pub blocks: Option<Range<usize>>,
}

const END: u8 = 0;
const NOTHING: u8 = 1;
const SACK: u8 = 5;
const TIMESTAMPS: u8 = 8;

/// Finds them in a TCP header. `None` if the options do not parse, or one of these comes twice. Others are skipped.
pub fn find(header: &[u8]) -> Option<Options> {
    let mut found = Options::default();
    let mut at = 20;
    while at < header.len() {
        match header[at] {
            END => break,
            NOTHING => at += 1,
            kind => {
                let len = usize::from(*header.get(at + 1)?);
                if len < 2 || at + len > header.len() {
                    return None;
                }
                let value = at + 2..at + len;
                let (place, is_good) = match kind {
                    SACK => (&mut found.blocks, value.len() % 8 == 0 && value.len() <= 32),
                    TIMESTAMPS => (&mut found.timestamps, value.len() == 8),
                    _ => {
                        at += len;
                        continue;
                    }
                };
                if !is_good || place.replace(value).is_some() {
                    return None;
                }
                at += len;
            }
        }
    }
    Some(found)
}
