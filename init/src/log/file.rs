//! The files of one unit: `current`, and rotated ones named by the moment of their rotation, or of
//! the newest before them where the clock has been set back since.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use super::lines;

/// Name of the file that is written.
pub const CURRENT: &str = "current";
/// First character of the names of rotated files; the rest is the time, so that names sort by age.
const ROTATED: char = '@';
/// Digits behind the time where that alone would not be the newest name, and the last such number.
const COUNT_DIGITS: usize = 6;
const MOST_COUNT: u32 = 999_999;

/// Where one unit's lines go.
#[derive(Debug)]
pub struct LogFile {
    directory: PathBuf,
    group: Option<u32>,
    limit: u64,
    keep: usize,
    open: Option<(File, u64)>,
}

impl LogFile {
    /// The files in `directory`, which is made when the first line comes. They belong to `group`, who may read.
    pub fn new(directory: PathBuf, group: Option<u32>, limit: u64, keep: u32) -> LogFile {
        let keep = usize::try_from(keep).unwrap_or(usize::MAX);
        LogFile { directory, group, limit, keep, open: None }
    }

    /// Changes the settings.
    pub fn configure(&mut self, limit: u64, keep: u32) {
        self.limit = limit;
        self.keep = usize::try_from(keep).unwrap_or(usize::MAX);
    }

    /// Lets go of the file; the next line opens it again.
    pub fn close(&mut self) {
        self.open = None;
    }

    /// Bytes until the next rotation, at least 1; rotates if it is due. A line may go beyond it.
    ///
    /// # Errors
    /// What mkdir(2), open(2) or rename(2) said.
    pub fn room(&mut self) -> io::Result<u64> {
        // Somebody removed the file: writing on would be for nobody.
        if let Some((file, _)) = &self.open
            && file.metadata().is_ok_and(|m| m.nlink() == 0)
        {
            self.open = None;
        }
        if self.limit == 0 {
            return self.size().map(|_| u64::MAX);
        }
        if self.size()? >= self.limit {
            self.rotate()?;
        }
        Ok(self.limit.saturating_sub(self.size()?).max(1))
    }

    /// Appends whole lines: all of them, or none.
    ///
    /// # Errors
    /// What mkdir(2), open(2) or write(2) said.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let size = self.size()?;
        let Some((file, known)) = &mut self.open else { return Ok(()) };
        match file.write_all(bytes) {
            Ok(()) => {
                *known = size.saturating_add(length);
                Ok(())
            }
            Err(error) => {
                // A part may be in the file; cutting it off needs no space. If even that fails, the line that
                // follows repeats it, which is allowed.
                let _best_effort = file.set_len(size);
                self.open = None;
                Err(error)
            }
        }
    }

    /// The size of the open file, which is opened for it.
    fn size(&mut self) -> io::Result<u64> {
        if let Some((_, size)) = &self.open {
            return Ok(*size);
        }
        let path = self.directory.join(CURRENT);
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o640).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let file = match options.open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new().recursive(true).mode(0o750).create(&self.directory)?;
                self.share(&File::open(&self.directory)?);
                options.open(&path)?
            }
            other => other?,
        };
        let size = file.metadata()?.len();
        if size == 0 {
            self.share(&file);
        }
        // A line cut off by a crash of the machine gets its end, so that the next one starts on its own.
        let size = if size > 0 && !ends_with_line_feed(&path)? {
            (&file).write_all(b"\n")?;
            size + 1
        } else {
            size
        };
        self.open = Some((file, size));
        Ok(size)
    }

    /// Readers in the group are a convenience: that they cannot be let in stops nothing.
    fn share(&self, file: &File) {
        if self.group.is_some() {
            let _convenience = fchown(file, None, self.group);
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.open = None;
        let current = self.directory.join(CURRENT);
        if self.keep == 0 {
            return std::fs::remove_file(current);
        }
        let time = lines::now().replace([':', '-'], "");
        let newest = rotated(&self.directory)?.pop();
        let newest = newest.as_deref().and_then(Path::file_name).and_then(|n| n.to_str());
        let target = self.directory.join(name_after(newest, format!("{ROTATED}{time}")));
        std::fs::rename(current, target)?;
        let rotated = rotated(&self.directory)?;
        let surplus = rotated.len().saturating_sub(self.keep);
        for old in rotated.iter().take(surplus) {
            std::fs::remove_file(old)?;
        }
        Ok(())
    }
}

/// `name`, unless that would not be the newest: two rotations in one microsecond, or a clock that is behind what it was.
fn name_after(newest: Option<&str>, name: String) -> String {
    let Some(newest) = newest.filter(|newest| *newest >= name.as_str()) else { return name };
    let counted = newest.rsplit_once('.').filter(|(_, count)| count.len() == COUNT_DIGITS);
    match counted.and_then(|(base, count)| Some((base, count.parse::<u32>().ok()?))) {
        Some((base, count)) if count < MOST_COUNT => format!("{base}.{:06}", count + 1),
        _ => format!("{newest}.000001"),
    }
}

fn ends_with_line_feed(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::FileExt;
    let file = File::open(path)?;
    let mut last = [0];
    file.read_at(&mut last, file.metadata()?.len().saturating_sub(1))?;
    Ok(last == [b'\n'])
}

/// The rotated files of a unit, oldest first.
pub fn rotated(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut out: Vec<PathBuf> = std::fs::read_dir(directory)?
        .flatten()
        .filter(|e| e.file_name().to_str().is_some_and(|n| n.starts_with(ROTATED)))
        .map(|e| e.path())
        .collect();
    out.sort_unstable();
    Ok(out)
}

/// All files of a unit, oldest first. None when it has no directory.
pub fn all(directory: &Path) -> Vec<PathBuf> {
    let mut out = rotated(directory).unwrap_or_default();
    let current = directory.join(CURRENT);
    if current.exists() {
        out.push(current);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(directory: &Path) -> Vec<String> {
        all(directory).iter().map(|p| std::fs::read_to_string(p).unwrap()).collect()
    }

    fn put(file: &mut LogFile, text: &str) {
        assert!(file.room().unwrap() > 0);
        file.append(text.as_bytes()).unwrap();
    }

    #[test]
    fn rotates_by_size_and_keeps_some() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs/unit");
        let mut file = LogFile::new(path.clone(), None, 10, 2);
        for n in 0..7 {
            put(&mut file, &format!("line{n}\n"));
        }
        assert_eq!(text(&path), ["line2\nline3\n", "line4\nline5\n", "line6\n"]);
        assert_eq!(file.room().unwrap(), 4);
        put(&mut file, "longer than the limit\n");
        put(&mut file, "x\n");
        assert_eq!(text(&path), ["line4\nline5\n", "line6\nlonger than the limit\n", "x\n"]);
        file.configure(2, 0);
        put(&mut file, "12\n");
        assert_eq!(std::fs::read_to_string(path.join(CURRENT)).unwrap(), "12\n");
    }

    #[test]
    fn a_clock_that_was_ahead_costs_no_line() {
        let dir = tempfile::tempdir().unwrap();
        let ahead = |n: u32| dir.path().join(format!("@22300101T00000{n}.000000Z"));
        (0..4).for_each(|n| std::fs::write(ahead(n), format!("ahead{n}\n")).unwrap());
        let mut file = LogFile::new(dir.path().to_owned(), None, 1, 4);
        for n in 0..3 {
            put(&mut file, &format!("{n}\n"));
        }
        assert_eq!(text(dir.path()), ["ahead2\n", "ahead3\n", "0\n", "1\n", "2\n"]);
        for n in 3..6 {
            put(&mut file, &format!("{n}\n"));
        }
        assert_eq!(text(dir.path()), ["1\n", "2\n", "3\n", "4\n", "5\n"]);
    }

    #[test]
    fn names_go_up_whatever_the_clock_says() {
        let mut names = vec!["@2".to_owned()];
        for clock in ["@3", "@3", "@1", "@1"] {
            let next = name_after(names.last().map(String::as_str), clock.to_owned());
            names.push(next);
        }
        assert_eq!(names, ["@2", "@3", "@3.000001", "@3.000002", "@3.000003"]);
        assert_eq!(name_after(Some("@3.999999"), "@1".into()), "@3.999999.000001");
        assert!("@3.999999.000001" > "@3.999999");
        // A fraction of a second is no number.
        assert_eq!(name_after(Some("@5.123456Z"), "@1".into()), "@5.123456Z.000001");
    }

    #[test]
    fn a_removed_file_and_a_torn_line_are_mended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("unit");
        let mut file = LogFile::new(path.clone(), None, 0, 2);
        put(&mut file, "a\n");
        std::fs::remove_dir_all(&path).unwrap();
        put(&mut file, "b\n");
        assert_eq!(text(&path), ["b\n"]);
        std::fs::write(path.join(CURRENT), "b\ntorn").unwrap();
        let mut again = LogFile::new(path.clone(), None, 0, 2);
        put(&mut again, "c\n");
        assert_eq!(text(&path), ["b\ntorn\nc\n"]);
    }

    #[test]
    fn a_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/null", dir.path().join(CURRENT)).unwrap();
        let mut file = LogFile::new(dir.path().to_owned(), None, 0, 2);
        assert_eq!(file.append(b"x\n").unwrap_err().raw_os_error(), Some(libc::ELOOP));
    }
}
