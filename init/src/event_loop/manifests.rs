//! Manifests as PID 1 holds them: sealed memfds, mapped, checked once, handed on to workers by descriptor.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use cm_core::proto::ManifestRef;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::MFdFlags;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};
use units::Manifest;
use units::manifest::{MAX_BYTES, ManifestError};

/// Why a descriptor is not taken as a manifest.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// Somebody could still change it.
    #[error("cannot take a manifest: its memory is not sealed")]
    Unsealed,
    /// Too large or empty.
    #[error("cannot take a manifest: {0} bytes are too few or too many")]
    Size(u64),
    /// The kernel refused.
    #[error("cannot take a manifest: {0}")]
    Io(#[from] io::Error),
    /// It is damaged or of another version.
    #[error("cannot take a manifest: {0}")]
    Manifest(#[from] ManifestError),
}

impl From<nix::Error> for TakeError {
    fn from(e: nix::Error) -> TakeError {
        TakeError::Io(e.into())
    }
}

/// A read-only mapping of a sealed memfd: its bytes can neither change nor go away while it lives.
struct Mapping {
    at: NonNull<c_void>,
    length: NonZeroUsize,
}

// SAFETY: the mapping is read-only and of sealed memory; any thread may read it or unmap it once.
unsafe impl Send for Mapping {}
// SAFETY: as above: nobody can write.
unsafe impl Sync for Mapping {}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: mmap gave `length` readable bytes at `at`; the seals forbid to shrink or change them.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr().cast::<u8>().cast_const(), self.length.get()) }
    }
}

/// Address and length of every mapping.
static MAPPED: Mutex<Vec<(usize, NonZeroUsize)>> = Mutex::new(Vec::new());

impl Drop for Mapping {
    fn drop(&mut self) {
        let mut mapped = MAPPED.lock().unwrap_or_else(PoisonError::into_inner);
        mapped.retain(|(at, _)| *at != self.at.addr().get());
        // SAFETY: exactly what mmap returned, unmapped once; slices of it borrow from self.
        let _ = unsafe { munmap(self.at, self.length.get()) };
    }
}

/// Checks the seals, maps the memory and parses the manifest.
///
/// # Errors
/// When the memory is not sealed against writing, growing and shrinking, or holds no manifest.
pub fn map(fd: BorrowedFd<'_>) -> Result<Manifest, TakeError> {
    let seals =
        SealFlag::from_bits_truncate(fcntl(fd, FcntlArg::F_GET_SEALS).map_err(|_| TakeError::Unsealed)?);
    if !seals.contains(SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW) {
        return Err(TakeError::Unsealed);
    }
    let size = u64::try_from(nix::sys::stat::fstat(fd)?.st_size).unwrap_or_default();
    let length = usize::try_from(size).ok().and_then(NonZeroUsize::new).filter(|n| n.get() <= MAX_BYTES);
    let length = length.ok_or(TakeError::Size(size))?;
    // SAFETY: a fresh mapping at an address of the kernel's choice touches no memory of ours.
    let at = unsafe { mmap(None, length, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE, fd, 0) }?;
    MAPPED.lock().unwrap_or_else(PoisonError::into_inner).push((at.expose_provenance().get(), length));
    Ok(Manifest::parse(Arc::new(Mapping { at, length }))?)
}

/// Takes the pages of all manifests out of the process. What it asks of one it finds in the memfd.
pub fn leave() {
    for (at, length) in MAPPED.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        let Some(at) = NonNull::new(std::ptr::with_exposed_provenance_mut(*at)) else { continue };
        // SAFETY: a mapping leaves the list before it is unmapped; nobody writes to it, and its memory is sealed, so that the
        // same bytes are there again when they are read.
        let _only_memory_is_lost = unsafe { madvise(at, length.get(), MmapAdvise::MADV_DONTNEED) };
    }
}

/// Bytes in a sealed memfd that survives execve(2).
///
/// # Errors
/// What memfd_create(2), write(2) or fcntl(2) said.
pub fn seal(bytes: &[u8]) -> io::Result<OwnedFd> {
    let fd = nix::sys::memfd::memfd_create(c"holdfast-manifest", MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = std::fs::File::from(fd);
    file.write_all(bytes)?;
    let seals =
        SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file.into())
}

/// Clears close-on-exec, so that the next PID 1 finds the descriptor.
///
/// # Errors
/// What fcntl(2) said.
pub fn keep_across_exec(fd: BorrowedFd<'_>) -> io::Result<()> {
    fcntl(fd, FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))?;
    Ok(())
}

/// A manifest that is held.
#[derive(Debug, Clone)]
pub struct Held {
    /// Its memory.
    pub fd: Rc<OwnedFd>,
    /// The generation it is; 0 is the one beside `init`. A prepared one gets its number later.
    pub generation: u64,
}

/// All manifests that somebody refers to.
#[derive(Debug, Default)]
pub struct Manifests {
    held: BTreeMap<ManifestRef, Held>,
    /// Let go of, but the live table may still name their descriptors.
    removed: Vec<Held>,
    changed: bool,
}

impl Manifests {
    /// Holds a manifest's memory under the number that the engine gave it.
    pub fn insert(&mut self, manifest: ManifestRef, fd: OwnedFd, generation: u64) {
        self.held.insert(manifest, Held { fd: Rc::new(fd), generation });
        self.changed = true;
    }

    /// The manifest with a number.
    pub fn get(&self, manifest: ManifestRef) -> Option<&Held> {
        self.held.get(&manifest)
    }

    /// Says which generation a manifest has become.
    pub fn set_generation(&mut self, manifest: ManifestRef, generation: u64) {
        if let Some(held) = self.held.get_mut(&manifest) {
            held.generation = generation;
            self.changed = true;
        }
    }

    /// Lets go of a manifest.
    pub fn remove(&mut self, manifest: ManifestRef) -> bool {
        let held = self.held.remove(&manifest);
        let found = held.is_some();
        self.removed.extend(held);
        self.changed |= found;
        found
    }

    /// Closes what was let go of; the live table has been told.
    pub fn close_removed(&mut self) {
        self.removed.clear();
    }

    /// Whether the live table has to be told.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// All, for the live table.
    pub fn iter(&self) -> impl Iterator<Item = (ManifestRef, RawFd, u64)> {
        self.held.iter().map(|(m, h)| (*m, h.fd.as_fd().as_raw_fd(), h.generation))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_whose_pages_were_left_reads_as_before() {
        let fd = seal(Manifest::empty().as_bytes()).unwrap();
        let manifest = map(fd.as_fd()).unwrap();
        let at = manifest.as_bytes().as_ptr().addr();
        let listed = || MAPPED.lock().unwrap().iter().any(|(a, _)| *a == at);
        let pages = std::fs::File::open("/proc/self/pagemap").unwrap();
        let present = || {
            let mut entry = [0; 8];
            let offset = u64::try_from(at / 4096 * 8).unwrap();
            std::os::unix::fs::FileExt::read_exact_at(&pages, &mut entry, offset).unwrap();
            entry[7] & 0x80 != 0
        };
        assert!(listed() && present());
        leave();
        assert!(!present());
        assert_eq!(manifest, Manifest::empty());
        drop(manifest);
        assert!(!listed());
    }

    #[test]
    fn only_sealed_memory_is_taken() {
        let manifest = Manifest::empty();
        let fd = seal(manifest.as_bytes()).unwrap();
        assert_eq!(map(fd.as_fd()).unwrap(), manifest);
        let open = nix::sys::memfd::memfd_create(c"x", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        nix::unistd::write(&open, manifest.as_bytes()).unwrap();
        assert!(matches!(map(open.as_fd()), Err(TakeError::Unsealed)));
        assert!(matches!(map(seal(b"").unwrap().as_fd()), Err(TakeError::Size(0))));
        assert!(matches!(map(seal(&[0; 100]).unwrap().as_fd()), Err(TakeError::Manifest(_))));
        let (pipe, _other) = nix::unistd::pipe().unwrap();
        assert!(map(pipe.as_fd()).is_err());
    }
}
