//! Where the joined sessions of a worker are kept: in blocks, which stay where they are.
//!
//! One table for all of them would have room for up to twice as many. An allocation for each would leave holes between what
//! their tasks had needed, which are then too small for the next tasks.

use slab::Slab;

/// Sessions of a block.
const BLOCK: usize = 64;

/// Sessions by number.
pub(super) struct Members<T> {
    blocks: Vec<Slab<T>>,
    /// All blocks before this one are full.
    first: usize,
}

impl<T> Default for Members<T> {
    fn default() -> Self {
        Self { blocks: Vec::new(), first: 0 }
    }
}

impl<T> Members<T> {
    /// Keeps `member`, which has the number that this returns until it is removed.
    pub(super) fn insert(&mut self, member: T) -> u32 {
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
        (self.first * BLOCK + block.insert(member)) as u32
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        let (block, place) = place(number);
        self.blocks.get_mut(block)?.get_mut(place)
    }

    pub(super) fn remove(&mut self, number: u32) -> Option<T> {
        let (at, place) = place(number);
        let block = self.blocks.get_mut(at)?;
        let member = block.try_remove(place)?;
        if block.is_empty() {
            // Gives its memory back.
            *block = Slab::new();
        }
        self.first = self.first.min(at);
        Some(member)
    }

    /// All of them.
    pub(super) fn into_all(self) -> impl Iterator<Item = T> {
        self.blocks.into_iter().flatten().map(|(_, member)| member)
    }

    /// The numbers of all.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> {
        let blocks = self.blocks.iter().enumerate();
        blocks.flat_map(|(at, block)| block.iter().map(move |(place, _)| (at * BLOCK + place) as u32))
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
        fn members_are_found_by_their_numbers_until_they_are_removed(steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 0..600)) {
            let (mut members, mut naive) = (Members::default(), BTreeMap::new());
            for (step, (insert, which)) in steps.into_iter().enumerate() {
                if insert || naive.is_empty() {
                    prop_assert_eq!(naive.insert(members.insert(step), step), None, "a number is given once");
                } else {
                    let number = *which.get(&naive.keys().copied().collect::<Vec<_>>());
                    prop_assert_eq!(members.get_mut(number).copied(), naive.get(&number).copied());
                    prop_assert_eq!(members.remove(number), naive.remove(&number));
                    prop_assert_eq!(members.remove(number), None);
                }
                prop_assert_eq!(members.numbers().collect::<Vec<_>>(), naive.keys().copied().collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn room_is_used_again_and_given_back() {
        let mut members = Members::default();
        let numbers: Vec<u32> = (0..3 * BLOCK).map(|value| members.insert(value)).collect();
        assert_eq!(members.blocks.len(), 3);
        assert!(members.blocks.iter().all(|block| block.capacity() == BLOCK), "no block has room for more");
        for number in &numbers[BLOCK..2 * BLOCK] {
            members.remove(*number);
        }
        assert_eq!(members.blocks[1].capacity(), 0);
        assert_eq!(members.insert(0) as usize / BLOCK, 1);
    }
}
