//! Memory that the process has and does not need.
#![allow(unsafe_code)]

use libc::{PF_W, PT_LOAD, c_int, c_void};

/// Gives memory that nothing uses any more back to the kernel: glibc keeps it, unless it is at the heap's very end.
pub fn trim_heap() {
    // SAFETY: malloc_trim(3) touches only what is free.
    unsafe { libc::malloc_trim(0) };
}

/// What is at least this large has a mapping of its own, which goes when it does: 64 KiB.
const LARGE: c_int = 64 << 10;

/// Keeps what is large out of the heap, in which it would leave holes when it goes. Left to itself glibc moves the border up
/// with every large piece that goes.
pub fn keep_large_apart() {
    // SAFETY: mallopt(3) takes two numbers, and is called before there is another thread.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
}

/// Below where it is, this much of the stack is kept for what is called next.
const KEPT: usize = 4 << 10;
/// So much of the stack below that is given back.
const STACK: usize = 512 << 10;
/// Most parts of a program that are only read: headers and constants, code.
const PARTS: usize = 4;

/// What the process can do without while it waits: the pages of the program that are only read, code and constants, and what
/// the stack has had further down. What it runs from there on it finds in the page cache; what only a boot or an apply needs
/// is the kernel's to take where memory is short.
#[derive(Debug, Clone, Copy, Default)]
pub struct Program {
    /// Address and length.
    parts: [(usize, usize); PARTS],
}

impl Program {
    /// Where they lie.
    pub fn find() -> Program {
        let mut found = Program::default();
        // SAFETY: the function does as dl_iterate_phdr(3) asks, and the pointer is to what it expects, which lives as long.
        unsafe { libc::dl_iterate_phdr(Some(find), (&raw mut found).cast()) };
        found
    }

    /// Leaves all that. For the first thread, whose stack grows, and to be called where the wait begins: every function that
    /// runs in between brings the pages around it back, so that this is part of whoever calls it.
    #[inline(always)]
    pub fn leave(&self) {
        leave_stack();
        for (at, length) in self.parts {
            // SAFETY: madvise(2), MADV_DONTNEED: a private mapping of a file that was never written to is read from the file
            // again, which nobody can write to while it is executed (ETXTBSY). A page of a segment that begins in it is the
            // file's too.
            unsafe { libc::madvise(std::ptr::with_exposed_provenance_mut(at), length, libc::MADV_DONTNEED) };
        }
    }
}

/// A function of its own: what it has on the stack lies below all that its caller has there.
#[inline(never)]
fn leave_stack() {
    let here = 0_u8;
    let to = (std::hint::black_box(&raw const here).addr() & !4095).saturating_sub(KEPT);
    let from = to.saturating_sub(STACK);
    // SAFETY: madvise(2), MADV_DONTNEED: below the stack pointer and what a signal handler skips below it is nothing that anybody
    // reads again, and nothing else: far more than this is kept free below a stack that grows (mmap(2), MAP_GROWSDOWN).
    unsafe { libc::madvise(std::ptr::with_exposed_provenance_mut(from), STACK, libc::MADV_DONTNEED) };
}

unsafe extern "C" fn find(program: *mut libc::dl_phdr_info, _size: usize, found: *mut c_void) -> c_int {
    // SAFETY: sysconf(3) takes an integer; the kernel's structure lives as long as this call, its headers as the program, and
    // what is looked for as long as who looks.
    let (page, program, headers, found) = unsafe {
        let program = &*program;
        let headers = std::slice::from_raw_parts(program.dlpi_phdr, usize::from(program.dlpi_phnum));
        (libc::sysconf(libc::_SC_PAGESIZE), program, headers, &mut *found.cast::<Program>())
    };
    let page = u64::try_from(page).unwrap_or(4096);
    let parts = headers.iter().filter(|h| h.p_type == PT_LOAD && h.p_flags & PF_W == 0);
    for (place, header) in found.parts.iter_mut().zip(parts) {
        let from = program.dlpi_addr.saturating_add(header.p_vaddr) / page * page;
        let to = program.dlpi_addr.saturating_add(header.p_vaddr).saturating_add(header.p_memsz);
        if let (Ok(address), Ok(length)) = (usize::try_from(from), usize::try_from(to.saturating_sub(from))) {
            *place = (address, length);
        }
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
        Program::find().leave();
        assert_eq!(present(), 0);
        assert_eq!(sum(), 7 << 20);
        assert_eq!(present(), 128);
    }
}
