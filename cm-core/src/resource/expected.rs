//! Who is still to be changed in the user databases by the batch that is carried out.

use std::collections::BTreeMap;

use super::op::{Op, Want, What};

/// Users and groups that the batch has not come to yet, and in how many operations each of them is.
#[derive(Debug, Default)]
pub struct Expected(BTreeMap<String, usize>);

impl Expected {
    /// Of all operations of a batch.
    pub fn of<'a>(ops: impl Iterator<Item = &'a Op>) -> Expected {
        let mut expected = Expected::default();
        for op in ops {
            if let What::Account(account) = &op.what {
                *expected.0.entry(account.name().to_owned()).or_default() += 1;
            }
        }
        expected
    }

    /// These operations were carried out, or will not be.
    pub fn passed(&mut self, ops: &[Op]) {
        for op in ops {
            if let What::Account(account) = &op.what
                && let Some(left) = self.0.get_mut(account.name())
            {
                *left -= 1;
                if *left == 0 {
                    self.0.remove(account.name());
                }
            }
        }
    }

    /// Whether somebody of this name is among them.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Whether it is not known yet who owns what is so declared.
    pub fn has_owner_of(&self, want: &Want) -> bool {
        [&want.owner, &want.group].into_iter().flatten().any(|who| self.has(who))
    }
}
