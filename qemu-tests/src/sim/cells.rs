//! A table of cells that histories visit, of which some cannot be.

use std::fmt;

/// How often each cell was visited: a row of cells a name.
#[derive(Debug, Clone, Copy)]
pub struct Cells<const COLUMNS: usize, const ROWS: usize> {
    cells: [[u64; COLUMNS]; ROWS],
}

impl<const COLUMNS: usize, const ROWS: usize> Default for Cells<COLUMNS, ROWS> {
    fn default() -> Cells<COLUMNS, ROWS> {
        Cells { cells: [[0; COLUMNS]; ROWS] }
    }
}

impl<const COLUMNS: usize, const ROWS: usize> Cells<COLUMNS, ROWS> {
    /// Counts a visit.
    pub fn visit(&mut self, row: usize, column: usize) {
        self.cells[row][column] += 1;
    }

    /// Adds the visits of another history.
    pub fn add(&mut self, other: &Cells<COLUMNS, ROWS>) {
        for (cell, more) in self.cells.iter_mut().flatten().zip(other.cells.iter().flatten()) {
            *cell += more;
        }
    }

    /// (visited, possible), where `possible` says of a row and a column whether histories can come there.
    pub fn counts(&self, possible: impl Fn(usize, usize) -> bool) -> (usize, usize) {
        let all = (0..ROWS).flat_map(|row| (0..COLUMNS).map(move |column| (row, column)));
        let possible: Vec<_> = all.filter(|(row, column)| possible(*row, *column)).collect();
        (possible.iter().filter(|(row, column)| self.cells[*row][*column] > 0).count(), possible.len())
    }

    /// Draws it with columns of this width. A cell that was not visited says NONE, or – where it cannot be.
    ///
    /// # Errors
    /// What the formatter says.
    pub fn draw(
        &self,
        f: &mut fmt::Formatter<'_>,
        (rows, columns): (&[&str; ROWS], &[&str; COLUMNS]),
        width: usize,
        possible: impl Fn(usize, usize) -> bool,
    ) -> fmt::Result {
        write!(f, "{:24}", "")?;
        for column in columns {
            write!(f, "{column:>width$}")?;
        }
        for (row, name) in rows.iter().enumerate() {
            write!(f, "\n{name:24}")?;
            for column in 0..COLUMNS {
                match (self.cells[row][column], possible(row, column)) {
                    (0, false) => write!(f, "{:>width$}", "–")?,
                    (0, true) => write!(f, "{:>width$}", "NONE")?,
                    (count, _) => write!(f, "{count:>width$}")?,
                }
            }
        }
        Ok(())
    }
}
