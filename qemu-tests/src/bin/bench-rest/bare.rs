//! The physical limit: loops that do nothing but what must be done, in this run, on the same file system.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use qemu_tests::{Result, measure};

use crate::content;

/// What one loop took.
pub(crate) struct Loop {
    pub(crate) wall: Duration,
    pub(crate) processor: Duration,
}

/// Both loops.
pub(crate) struct Loops {
    pub(crate) write: Loop,
    pub(crate) read: Loop,
}

impl Loops {
    pub(crate) fn run(directory: &Path, files: u32) -> Result<Loops> {
        for n in 0..files.div_ceil(100) {
            fs::create_dir_all(directory.join(n.to_string()))?;
        }
        // Contents and paths are there before: only the work on files is measured.
        let all: Vec<_> = (0..files)
            .map(|n| {
                let place = directory.join((n / 100).to_string());
                (place.join(n.to_string()), place.join(format!(".{n}")), content(n))
            })
            .collect();
        let write = measured(|| {
            for (path, unfinished, content) in &all {
                File::create(unfinished)?.write_all(content.as_bytes())?;
                fs::rename(unfinished, path)?;
            }
            Ok(())
        })?;
        let mut buffer = Vec::new();
        let read = measured(|| {
            for (path, _, content) in &all {
                buffer.clear();
                File::open(path)?.read_to_end(&mut buffer)?;
                if buffer != content.as_bytes() {
                    return Err("a file is not what was written".into());
                }
            }
            Ok(())
        })?;
        fs::remove_dir_all(directory)?;
        Ok(Loops { write, read })
    }
}

fn measured(work: impl FnOnce() -> Result) -> Result<Loop> {
    let (started, before) = (Instant::now(), measure::own_processor());
    work()?;
    Ok(Loop { wall: started.elapsed(), processor: measure::own_processor().saturating_sub(before) })
}
