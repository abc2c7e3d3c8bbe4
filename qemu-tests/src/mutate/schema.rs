//! One text with every way to write it, each behind its switch. Pure.

use std::collections::BTreeSet;
use std::ops::Range;

use super::sites::{Form, Site};

/// A source with its mutants in it.
#[derive(Debug, Clone)]
pub struct Schema {
    /// The source.
    pub text: String,
    /// Which bytes of it are there because of which mutants, who contains others before them.
    pub marks: Vec<(Range<usize>, Vec<u32>)>,
}

impl Schema {
    /// The mutants that are to blame for an error at these bytes: those whose own text it is, or else those who stand
    /// around it most closely.
    pub fn to_blame(&self, at: &Range<usize>) -> Vec<u32> {
        let around = |range: &Range<usize>| range.start <= at.start && at.end <= range.end;
        let closest =
            self.marks.iter().filter(|(range, _)| around(range)).min_by_key(|(range, _)| range.len());
        closest.map(|(_, mutants)| mutants.clone()).unwrap_or_default()
    }
}

/// Writes a source. The alternatives of `sites` have numbers from `first` in their order; those in `out` are not written.
/// `switch` is the path of the module that has the switch.
pub fn write(source: &str, sites: &[Site], first: u32, out: &BTreeSet<u32>, switch: &str) -> Schema {
    let mut numbered = Vec::new();
    let mut next = first;
    for site in sites {
        let mut numbers: Vec<(u32, &str)> = Vec::new();
        for other in &site.others {
            if !out.contains(&next) {
                numbers.push((next, &other.text));
            }
            next += 1;
        }
        if !numbers.is_empty() {
            numbered.push((site, numbers));
        }
    }
    let mut writer = Writer {
        source,
        switch,
        sites: numbered.into_iter().peekable(),
        text: String::new(),
        marks: Vec::new(),
    };
    writer.up_to(0, source.len());
    let Writer { text, marks, .. } = writer;
    Schema { text, marks }
}

type Numbered<'a> = (&'a Site, Vec<(u32, &'a str)>);

struct Writer<'a, I: Iterator<Item = Numbered<'a>>> {
    source: &'a str,
    switch: &'a str,
    sites: std::iter::Peekable<I>,
    text: String,
    marks: Vec<(Range<usize>, Vec<u32>)>,
}

impl<'a, I: Iterator<Item = Numbered<'a>>> Writer<'a, I> {
    /// Writes the source from here to there, with the sites that lie in it.
    fn up_to(&mut self, mut from: usize, to: usize) {
        while let Some((site, numbers)) = self.sites.next_if(|(s, _)| s.range.end <= to && s.range.start < to)
        {
            self.text += &self.source[from..site.range.start];
            from = site.range.end;
            self.site(site, &numbers);
        }
        self.text += &self.source[from..to];
    }

    fn site(&mut self, site: &Site, numbers: &[(u32, &str)]) {
        let begins = self.text.len();
        let all = numbers.iter().map(|(n, _)| *n).collect();
        let place = self.marks.len();
        self.marks.push((begins..begins, all));
        match site.form {
            Form::Body => {
                for (number, text) in numbers {
                    self.own(*number, &format!(" if {}::is({number}) {{ {text} }}", self.switch));
                }
            }
            Form::Condition => {
                for (number, _) in numbers {
                    self.own(*number, &format!("!{}::is({number}) && ", self.switch));
                }
            }
            Form::Arm => {
                for (number, _) in numbers {
                    self.own(*number, &format!(" if !{}::is({number})", self.switch));
                }
            }
            Form::Statement => {
                for (number, _) in numbers {
                    self.own(*number, &format!("if {}::is({number}) {{}} else ", self.switch));
                }
                self.text += "{ ";
                self.up_to(site.range.start, site.range.end);
                self.text += " }";
            }
            Form::Value => {
                self.text.push('(');
                for (number, text) in numbers {
                    self.own(*number, &format!("if {}::is({number}) {{ {text} }} else ", self.switch));
                }
                self.text += "{ ";
                self.up_to(site.range.start, site.range.end);
                self.text += " })";
            }
        }
        let ends = self.text.len();
        if let Some((range, _)) = self.marks.get_mut(place) {
            range.end = ends;
        }
    }

    /// Text that is there because of one mutant alone.
    fn own(&mut self, number: u32, text: &str) {
        let begins = self.text.len();
        self.text += text;
        self.marks.push((begins..self.text.len(), vec![number]));
    }
}
