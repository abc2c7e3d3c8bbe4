//! Whose records differ from what was written last.

use super::Node;

/// Units by their numbers. A step says of the same unit many times that it has changed: all but the first look at one bit.
#[derive(Debug, Clone, Default)]
pub(crate) struct Changed {
    words: Vec<u64>,
    /// The words in which there may be one: from, to.
    within: (usize, usize),
}

impl Changed {
    pub(crate) fn insert(&mut self, node: Node) {
        let (at, bit) = (node.index() / 64, node.index() % 64);
        if let Some(word) = self.words.get_mut(at).filter(|word| **word != 0) {
            *word |= 1 << bit;
            return;
        }
        if self.words.len() <= at {
            self.words.resize(at + 1, 0);
        }
        if let Some(word) = self.words.get_mut(at) {
            *word = 1 << bit;
        }
        let (from, to) = self.within;
        self.within = if from == to { (at, at + 1) } else { (from.min(at), to.max(at + 1)) };
    }

    pub(crate) fn extend(&mut self, nodes: impl IntoIterator<Item = Node>) {
        nodes.into_iter().for_each(|node| self.insert(node));
    }

    /// All of them, in order; none is left.
    pub(crate) fn take(&mut self) -> Vec<Node> {
        let mut out = Vec::new();
        let (from, to) = std::mem::take(&mut self.within);
        for (at, word) in self.words.iter_mut().enumerate().take(to).skip(from) {
            let mut rest = std::mem::take(word);
            while rest != 0 {
                let number = at.saturating_mul(64).saturating_add(rest.trailing_zeros() as usize);
                out.extend(u32::try_from(number).map(Node));
                rest &= rest - 1;
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_taken_once_and_in_order() {
        let mut changed = Changed::default();
        assert_eq!(changed.take(), []);
        changed.extend([700, 3, 64, 3, 63, 700, 64].map(Node));
        assert_eq!(changed.take(), [3, 63, 64, 700].map(Node));
        assert_eq!(changed.take(), []);
        changed.insert(Node(65));
        assert_eq!(changed.take(), [Node(65)]);
        changed.extend([Node(0), Node(1023)]);
        assert_eq!(changed.take(), [Node(0), Node(1023)]);
    }
}
