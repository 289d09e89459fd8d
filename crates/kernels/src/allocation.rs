//! The allocator of fitup's programs: memory that a step frees stays with the process for the next.
//!
//! A training step allocates the same buffers again and again, most of them several megabytes. An
//! allocator that gives them back to the system in between has every page cleared and mapped anew:
//! a sixth of the ALBEF-base step. PyTorch keeps them too.

use std::ffi::c_int;

/// What a program names as its global allocator.
pub type Allocator = mimalloc::MiMalloc;

/// The allocator itself.
pub const ALLOCATOR: Allocator = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of `mimalloc.h`; the bindings do not name it.
const PURGE_DELAY: c_int = 15;

/// Keeps freed memory for later allocations, and asks the system for large pages where it has them.
/// To be called first in `main`. The variables `MIMALLOC_PURGE_DELAY` (milliseconds) and
/// `MIMALLOC_ALLOW_LARGE_OS_PAGES` (0 or 1) choose otherwise.
pub fn keep_freed_memory() {
    let chosen = |variable| std::env::var_os(variable).is_some();
    if !chosen("MIMALLOC_PURGE_DELAY") {
        set_option(PURGE_DELAY, -1);
    }
    if !chosen("MIMALLOC_ALLOW_LARGE_OS_PAGES") {
        set_option(libmimalloc_sys::mi_option_large_os_pages, 1);
    }
}

fn set_option(option: c_int, value: std::ffi::c_long) {
    // SAFETY: sets a number in a table of the allocator; both options exist.
    unsafe { libmimalloc_sys::mi_option_set(option, value) }
}
