//! A long stream of bytes that both ends know from a seed, so that every byte can be compared and none is stored.

use std::io::{self, Read, Write};
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// Larger than any buffer on the way, so that reads and writes come in all sizes.
pub(crate) const LONGEST_CHUNK: usize = 96 << 10;

/// The bytes of a seed, one after the other.
///
/// Each byte is a function of its position. A random generator would not do: what it makes depends on how its output is
/// cut into pieces, and the two ends cut differently.
#[derive(Debug, Clone)]
pub struct Source {
    seed: u64,
    position: u64,
}

impl Source {
    /// The stream of `seed` from its start.
    pub fn new(seed: u64) -> Self {
        Self { seed, position: 0 }
    }

    /// How many bytes were taken.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Forgets the last `bytes` bytes that were taken: the next ones are these again.
    pub fn give_back(&mut self, bytes: u64) {
        self.position -= bytes;
    }

    /// Fills `buffer` with the next bytes.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        let mut rest = buffer;
        while !rest.is_empty() {
            let word = mix(self.seed.wrapping_add(self.position / 8)).to_le_bytes();
            let word = &word[usize::from(self.position as u8 % 8)..];
            let (piece, after) = rest.split_at_mut(word.len().min(rest.len()));
            piece.copy_from_slice(&word[..piece.len()]);
            self.position += piece.len() as u64;
            rest = after;
        }
    }
}

/// Compares bytes that arrive with the stream of a seed.
#[derive(Debug, Clone)]
pub struct Checker {
    expected: Source,
    buffer: Vec<u8>,
}

impl Checker {
    /// Expects the stream of `seed` from its start.
    pub fn new(seed: u64) -> Self {
        Self { expected: Source::new(seed), buffer: Vec::new() }
    }

    /// How many bytes were compared.
    pub fn position(&self) -> u64 {
        self.expected.position
    }

    /// Compares the next bytes; an error names the first that differs.
    pub fn check(&mut self, bytes: &[u8]) -> Result<()> {
        let start = self.expected.position;
        self.buffer.resize(bytes.len(), 0);
        self.expected.fill(&mut self.buffer);
        match bytes.iter().zip(&self.buffer).position(|(got, want)| got != want) {
            None => Ok(()),
            Some(offset) => bail!("byte {} is wrong", start + offset as u64),
        }
    }

    /// Reads exactly `length` bytes in random pieces with random pauses, and then expects the end of the stream.
    pub fn drain(mut self, mut stream: impl Read, length: u64, mut chunks: impl Iterator<Item = Chunk>) -> Result<()> {
        let mut buffer = vec![0; LONGEST_CHUNK];
        loop {
            let chunk = chunks.next().unwrap_or(Chunk { length: LONGEST_CHUNK, pause: Duration::ZERO });
            thread::sleep(chunk.pause);
            match stream.read(&mut buffer[..chunk.length])? {
                0 => break,
                read => self.check(&buffer[..read])?,
            }
        }
        let received = self.expected.position;
        ensure!(received == length, "the stream ended after {received} of {length} bytes");
        Ok(())
    }
}

/// One step of a sender or receiver: wait, then move up to so many bytes.
#[derive(Debug, Clone, Copy)]
pub struct Chunk {
    pub(crate) length: usize,
    pub(crate) pause: Duration,
}

/// Chunks from one byte to many buffers full, some of them after a pause of up to `longest_pause`.
pub fn random_chunks(seed: u64, longest_pause: Duration) -> impl Iterator<Item = Chunk> {
    let mut random = SmallRng::seed_from_u64(seed);
    std::iter::repeat_with(move || {
        // Small and large sizes are equally likely in their order of magnitude.
        let magnitude = random.random_range(0..=LONGEST_CHUNK.ilog2());
        let length = random.random_range(1..=LONGEST_CHUNK.min(2 << magnitude));
        let pause = if random.random_bool(0.1) { longest_pause.mul_f64(random.random()) } else { Duration::ZERO };
        Chunk { length, pause }
    })
}

/// Chunks as large as they get, without a pause.
pub fn large_chunks() -> impl Iterator<Item = Chunk> {
    std::iter::repeat(Chunk { length: LONGEST_CHUNK, pause: Duration::ZERO })
}

/// Writes the first `length` bytes of `source` in these chunks.
pub fn pump(
    mut stream: impl Write,
    mut source: Source,
    length: u64,
    chunks: impl Iterator<Item = Chunk>,
) -> io::Result<()> {
    let mut buffer = vec![0; LONGEST_CHUNK];
    for chunk in chunks {
        let left = usize::try_from(length - source.position).unwrap_or(usize::MAX);
        if left == 0 {
            break;
        }
        let piece = &mut buffer[..chunk.length.min(left)];
        source.fill(piece);
        thread::sleep(chunk.pause);
        stream.write_all(piece)?;
    }
    Ok(())
}

/// Scatters neighbouring numbers over all of `u64`: the finalizer of the SplitMix64 generator.
pub(crate) fn mix(number: u64) -> u64 {
    let mut word = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_does_not_depend_on_how_it_is_cut() {
        let mut sent = Vec::new();
        pump(&mut sent, Source::new(7), 300_000, random_chunks(1, Duration::ZERO)).unwrap();
        assert_eq!(sent.len(), 300_000);
        Checker::new(7).drain(&sent[..], 300_000, random_chunks(2, Duration::ZERO)).unwrap();
    }

    #[test]
    fn every_kind_of_damage_is_found() {
        let mut sent = vec![0; 5_000];
        Source::new(7).fill(&mut sent);
        let verdict = |bytes: &[u8]| {
            let outcome = Checker::new(7).drain(bytes, 5_000, random_chunks(2, Duration::ZERO));
            outcome.map_err(|error| error.to_string())
        };
        assert_eq!(verdict(&sent), Ok(()));
        assert_eq!(verdict(&sent[..4_999]), Err("the stream ended after 4999 of 5000 bytes".to_owned()));
        assert_eq!(verdict(&sent[1..]), Err("byte 0 is wrong".to_owned()));
        sent[4_321] ^= 1;
        assert_eq!(verdict(&sent), Err("byte 4321 is wrong".to_owned()));
        sent[4_321] ^= 1;
        sent.push(0);
        assert!(verdict(&sent).is_err());
    }
}
