//! Memory that the process has and does not need.
#![allow(unsafe_code)]

use libc::{PF_W, PT_LOAD, c_int, c_void};

/// Gives memory that nothing uses any more back to the kernel: glibc keeps it, unless it is at the heap's very end.
pub fn trim_heap() {
    // SAFETY: malloc_trim(3) touches only what is free.
    unsafe { libc::malloc_trim(0) };
}

/// Takes the pages of the program that are only read, code and constants, out of the process. What it runs from here on it
/// finds in the page cache; what only a boot or an apply needs is the kernel's to take where memory is short.
pub fn leave_program() {
    // SAFETY: the function does as dl_iterate_phdr(3) asks, and looks at nothing that the pointer, null, points to.
    unsafe { libc::dl_iterate_phdr(Some(leave), std::ptr::null_mut()) };
}

unsafe extern "C" fn leave(program: *mut libc::dl_phdr_info, _size: usize, _data: *mut c_void) -> c_int {
    // SAFETY: sysconf(3) takes an integer; the kernel's structure lives as long as this call, its headers as the program.
    let (page, program, headers) = unsafe {
        let program = &*program;
        let headers = std::slice::from_raw_parts(program.dlpi_phdr, usize::from(program.dlpi_phnum));
        (libc::sysconf(libc::_SC_PAGESIZE), program, headers)
    };
    let page = u64::try_from(page).unwrap_or(4096);
    for header in headers.iter().filter(|h| h.p_type == PT_LOAD && h.p_flags & PF_W == 0) {
        let from = program.dlpi_addr.saturating_add(header.p_vaddr) / page * page;
        let to = program.dlpi_addr.saturating_add(header.p_vaddr).saturating_add(header.p_memsz);
        let (Ok(address), Ok(length)) = (usize::try_from(from), usize::try_from(to.saturating_sub(from)))
        else {
            continue;
        };
        // SAFETY: madvise(2), MADV_DONTNEED: a private mapping of a file that was never written to is read from the file again,
        // which nobody can write to while it is executed (ETXTBSY). A page of a segment that begins in it is the file's too.
        unsafe { libc::madvise(std::ptr::with_exposed_provenance_mut(address), length, libc::MADV_DONTNEED) };
    }
    // The first is the program itself; what else there is (the kernel's own page) is not ours.
    1
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    /// Nobody else looks at these.
    static CONSTANTS: [u8; 1 << 20] = [7; 1 << 20];

    /// How many of the 128 pages in their middle the process has, by bit 63 of proc_pid_pagemap(5). Around a page that is
    /// asked for the kernel maps others, but not so many.
    fn present() -> usize {
        let pages = std::fs::File::open("/proc/self/pagemap").unwrap();
        let first = CONSTANTS.as_ptr().addr() as u64 / 4096 + 64;
        let mut entries = [0; 8 * 128];
        pages.read_exact_at(&mut entries, first * 8).unwrap();
        entries.chunks(8).filter(|entry| entry[7] & 0x80 != 0).count()
    }

    #[test]
    fn what_is_left_is_there_again_when_it_is_used() {
        let sum = || std::hint::black_box(&CONSTANTS).iter().map(|b| u64::from(*b)).sum::<u64>();
        assert_eq!(sum(), 7 << 20);
        assert_eq!(present(), 128);
        leave_program();
        assert_eq!(present(), 0);
        assert_eq!(sum(), 7 << 20);
        assert_eq!(present(), 128);
    }
}
