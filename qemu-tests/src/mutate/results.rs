//! What came of each mutant, kept beside what is built.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::Mutant;
use crate::Result;

/// What came of a mutant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// An invariant or a test broke.
    Killed,
    /// It hung, or ate all memory.
    Hung,
    /// Nothing broke.
    Survived,
    /// Nothing broke, and no history asks for it.
    Unasked,
}

impl Verdict {
    /// All, with their words.
    pub const ALL: [(Verdict, &str); 4] = [
        (Verdict::Killed, "killed"),
        (Verdict::Hung, "hung"),
        (Verdict::Survived, "survived"),
        (Verdict::Unasked, "unasked"),
    ];

    /// Its word.
    pub fn word(self) -> &'static str {
        Verdict::ALL.iter().find(|(v, _)| *v == self).map_or("", |(_, word)| word)
    }

    fn read(word: &str) -> Option<Verdict> {
        Verdict::ALL.iter().find(|(_, w)| *w == word).map(|(v, _)| *v)
    }

    /// Whether somebody has to say why that is so.
    pub fn lives(self) -> bool {
        matches!(self, Verdict::Survived | Verdict::Unasked)
    }
}

/// A verdict, and what gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What came of it.
    pub verdict: Verdict,
    /// The invariant or test that broke, or how it differs from what it is made of.
    pub by: String,
}

/// What is known of all mutants, by their keys.
#[derive(Debug)]
pub struct Results {
    file: PathBuf,
    known: BTreeMap<String, Outcome>,
}

impl Results {
    /// What earlier runs have found out.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn load(folder: &Path) -> Result<Results> {
        let file = folder.join("results.tsv");
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(format!("cannot read {}: {e}", file.display()).into()),
        };
        let known = text.lines().filter_map(read_line).collect();
        Ok(Results { file, known })
    }

    /// Keeps what came of one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add(&mut self, mutant: &Mutant, result: Outcome) -> Result {
        let mut file = OpenOptions::new().create(true).append(true).open(&self.file)?;
        let by = result.by.replace(['\t', '\n'], " ");
        writeln!(file, "{}\t{by}\t{}", result.verdict.word(), mutant.key())?;
        self.known.insert(mutant.key(), result);
        Ok(())
    }

    /// What is known of a mutant.
    pub fn of(&self, mutant: &Mutant) -> Option<&Outcome> {
        self.known.get(&mutant.key())
    }
}

fn read_line(line: &str) -> Option<(String, Outcome)> {
    let mut parts = line.splitn(3, '\t');
    let verdict = Verdict::read(parts.next()?)?;
    let by = parts.next()?.to_owned();
    Some((parts.next()?.to_owned(), Outcome { verdict, by }))
}
