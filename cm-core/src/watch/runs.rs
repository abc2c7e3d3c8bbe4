//! A set as one list with little beside it: sorted runs, as long as the digits of the list's length in binary. An item
//! more is a run of its own, which is sorted together with those that it is as long as, like a carry in a sum.
//!
//! **Invariant:** no item is there twice, and each run is sorted.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

/// A number that is compared: tests count how often.
#[derive(Debug, Clone, Copy, Default, Eq, Serialize, Deserialize)]
pub(super) struct Number(pub u32);

impl Number {
    pub const LEAST: Number = Number(u32::MIN);
    pub const MOST: Number = Number(u32::MAX);
}

impl PartialEq for Number {
    fn eq(&self, other: &Number) -> bool {
        compared();
        self.0 == other.0
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Number) -> Ordering {
        compared();
        self.0.cmp(&other.0)
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Number) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(not(test))]
fn compared() {}

#[cfg(test)]
fn compared() {
    COMPARED.with(|count| count.set(count.get() + 1));
}

#[cfg(test)]
thread_local! {
    /// How often this thread has compared two numbers.
    pub(super) static COMPARED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// The set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Runs<T> {
    list: Vec<T>,
}

impl<T> Default for Runs<T> {
    fn default() -> Runs<T> {
        Runs { list: Vec::new() }
    }
}

impl<T: Ord> Runs<T> {
    fn runs(&self) -> impl Iterator<Item = &[T]> {
        let mut rest = self.list.as_slice();
        std::iter::from_fn(move || {
            let (run, others) = rest.split_at_checked(1 << rest.len().checked_ilog2()?)?;
            rest = others;
            Some(run)
        })
    }

    pub fn insert(&mut self, item: T) {
        if self.runs().any(|run| run.binary_search(&item).is_ok()) {
            return;
        }
        if self.list.len() == self.list.capacity() {
            // To double it would leave half of a large directory's room unused.
            self.list.reserve_exact(self.list.len() / 4 + 1);
        }
        self.list.push(item);
        let carried = 1 << self.list.len().trailing_zeros();
        if let Some(run) = self.list.len().checked_sub(carried).and_then(|from| self.list.get_mut(from..)) {
            run.sort_unstable();
        }
    }

    /// What is `like` something: which comes after all that is `before` it, in one piece.
    pub fn like(
        &self,
        before: impl Fn(&T) -> bool + Copy,
        like: impl Fn(&T) -> bool + Copy,
    ) -> impl Iterator<Item = &T> {
        self.runs().flat_map(move |run| {
            let from = run.partition_point(before);
            run.iter().skip(from).take_while(move |item| like(item))
        })
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.list.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn retain(&mut self, keep: impl FnMut(&T) -> bool) {
        let before = self.list.len();
        self.list.retain(keep);
        if self.list.len() != before {
            self.list.sort_unstable();
            self.list.shrink_to(self.list.len() + self.list.len() / 4);
        }
    }

    /// Whether more would fit in without another list.
    pub fn has_room(&self) -> bool {
        self.list.capacity() > self.list.len()
    }

    /// The list as it is.
    pub fn into_list(self) -> Vec<T> {
        self.list
    }

    /// A set of what [`Runs::into_list`] gave.
    pub fn of_list(list: Vec<T>) -> Runs<T> {
        Runs { list }
    }

    pub fn bytes(&self) -> usize {
        self.list.capacity() * size_of::<T>()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set(
            items in proptest::collection::vec(0u8..100, 0..300),
            gone in proptest::collection::btree_set(0u8..100, 0..20),
            more in proptest::collection::vec(0u8..100, 0..30),
        ) {
            let (mut runs, mut set) = (Runs::default(), BTreeSet::new());
            for item in items {
                runs.insert(item);
                set.insert(item);
            }
            runs.retain(|item| !gone.contains(item));
            set.retain(|item| !gone.contains(item));
            for item in more {
                runs.insert(item);
                set.insert(item);
            }
            let mut listed: Vec<u8> = runs.iter().copied().collect();
            listed.sort_unstable();
            prop_assert_eq!(listed, set.iter().copied().collect::<Vec<_>>());
            for tens in 0..10 {
                let found: BTreeSet<u8> =
                    runs.like(|i| *i < tens * 10, |i| *i / 10 == tens).copied().collect();
                let want: BTreeSet<u8> = set.iter().copied().filter(|i| *i / 10 == tens).collect();
                prop_assert_eq!(found, want);
            }
        }
    }
}
