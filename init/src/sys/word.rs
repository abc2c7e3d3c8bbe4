//! A number in a file in memory that is set without a system call, and is there for whoever comes after this process.
#![allow(unsafe_code)]

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// Bytes that are mapped: the file's first page.
const PAGE: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// One of the first 512 words of a file in memory.
#[derive(Debug)]
pub struct Word {
    page: NonNull<AtomicU64>,
    index: usize,
}

impl Word {
    /// Maps the word with this number; the file has to be in memory, and is made a page long if it is shorter.
    ///
    /// # Errors
    /// What ftruncate(2) or mmap(2) said; EINVAL for a word that is not in the first page.
    pub fn map(file: &std::fs::File, index: usize) -> io::Result<Word> {
        let length = u64::try_from(PAGE.get()).unwrap_or_default();
        if index >= PAGE.get() / size_of::<u64>() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if file.metadata()?.len() < length {
            file.set_len(length)?;
        }
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice touches no memory of ours.
        let page = unsafe { mmap(None, PAGE, access, MapFlags::MAP_SHARED, file.as_fd(), 0) }?;
        Ok(Word { page: page.cast(), index })
    }

    fn word(&self) -> &AtomicU64 {
        // SAFETY: the page is mapped as long as self lives, aligned, and the index was checked to lie in it; what
        // others write to it is atomic too, or through the kernel.
        unsafe { self.page.add(self.index).as_ref() }
    }

    /// Sets it.
    pub fn set(&self, number: u64) {
        self.word().store(number.to_le(), Ordering::Relaxed);
    }

    /// What it is.
    pub fn get(&self) -> u64 {
        u64::from_le(self.word().load(Ordering::Relaxed))
    }
}

impl Drop for Word {
    fn drop(&mut self) {
        // SAFETY: exactly what mmap returned, unmapped once; references to it borrow from self.
        let _ = unsafe { munmap(self.page.cast(), PAGE.get()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn what_is_set_stands_in_the_file() {
        let fd = nix::sys::memfd::memfd_create(c"x", nix::sys::memfd::MFdFlags::empty()).unwrap();
        let file = std::fs::File::from(fd);
        let word = Word::map(&file, 3).unwrap();
        assert_eq!(word.get(), 0);
        word.set(0x1122_3344_5566_7788);
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, 24).unwrap();
        assert_eq!(u64::from_le_bytes(bytes), 0x1122_3344_5566_7788);
        drop(word);
        assert_eq!(Word::map(&file, 3).unwrap().get(), 0x1122_3344_5566_7788);
        assert!(Word::map(&file, 512).is_err());
    }
}
