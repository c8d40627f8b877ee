//! A table for what is kept of each session, made of blocks.
//!
//! One that grows as a whole would have room for up to twice as many. An allocation for each would lie between what the
//! session's task needs while it begins, and leave holes there that are too small for the next tasks.

use slab::Slab;

/// Entries of a block.
const BLOCK: usize = 64;

/// Entries by number.
#[derive(Debug)]
pub(crate) struct Blocks<T> {
    blocks: Vec<Slab<T>>,
    /// All blocks before this one are full.
    first: usize,
}

impl<T> Default for Blocks<T> {
    fn default() -> Self {
        Self { blocks: Vec::new(), first: 0 }
    }
}

impl<T> Blocks<T> {
    /// Keeps `entry`, which has the number that this returns until it is removed.
    pub(crate) fn insert(&mut self, entry: T) -> u32 {
        while self.blocks.get(self.first).is_some_and(|block| block.len() == BLOCK) {
            self.first += 1;
        }
        if self.first == self.blocks.len() {
            self.blocks.push(Slab::new());
        }
        let block = &mut self.blocks[self.first];
        if block.capacity() == 0 {
            block.reserve_exact(BLOCK);
        }
        (self.first * BLOCK + block.insert(entry)) as u32
    }

    pub(crate) fn get(&self, number: u32) -> Option<&T> {
        let (block, place) = place(number);
        self.blocks.get(block)?.get(place)
    }

    pub(crate) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        let (block, place) = place(number);
        self.blocks.get_mut(block)?.get_mut(place)
    }

    pub(crate) fn remove(&mut self, number: u32) -> Option<T> {
        let (at, place) = place(number);
        let block = self.blocks.get_mut(at)?;
        let entry = block.try_remove(place)?;
        // Gives its memory back; but the first block's, which a session that comes alone would ask for again.
        if block.is_empty() && at > 0 {
            *block = Slab::new();
        }
        self.first = self.first.min(at);
        Some(entry)
    }

    /// All of them.
    pub(crate) fn into_all(self) -> impl Iterator<Item = T> {
        self.blocks.into_iter().flatten().map(|(_, entry)| entry)
    }

    /// All with their numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let blocks = self.blocks.iter().enumerate();
        blocks.flat_map(|(at, block)| block.iter().map(move |(place, entry)| ((at * BLOCK + place) as u32, entry)))
    }
}

/// The block of a number, and where it is there.
fn place(number: u32) -> (usize, usize) {
    (number as usize / BLOCK, number as usize % BLOCK)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn entries_are_found_by_their_numbers_until_they_are_removed(
            steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 0..600)
        ) {
            let (mut blocks, mut naive) = (Blocks::default(), BTreeMap::new());
            for (step, (insert, which)) in steps.into_iter().enumerate() {
                if insert || naive.is_empty() {
                    prop_assert_eq!(naive.insert(blocks.insert(step), step), None, "a number is given once");
                } else {
                    let number = *which.get(&naive.keys().copied().collect::<Vec<_>>());
                    prop_assert_eq!(blocks.get_mut(number).copied(), naive.get(&number).copied());
                    prop_assert_eq!(blocks.remove(number), naive.remove(&number));
                    prop_assert_eq!(blocks.remove(number), None);
                }
                prop_assert_eq!(blocks.iter().map(|(number, entry)| (number, *entry)).collect::<BTreeMap<_, _>>(), naive.clone());
            }
        }
    }

    #[test]
    fn room_is_used_again_and_given_back() {
        let mut blocks = Blocks::default();
        let numbers: Vec<u32> = (0..3 * BLOCK).map(|value| blocks.insert(value)).collect();
        assert_eq!(blocks.blocks.len(), 3);
        assert!(blocks.blocks.iter().all(|block| block.capacity() == BLOCK), "no block has room for more");
        for number in &numbers[BLOCK..2 * BLOCK] {
            blocks.remove(*number);
        }
        assert_eq!(blocks.blocks[1].capacity(), 0);
        assert_eq!(blocks.insert(0) as usize / BLOCK, 1);
    }
}
