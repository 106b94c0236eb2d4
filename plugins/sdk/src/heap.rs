//! The heap of a guest: the allocator of Rust's standard library for WebAssembly, with a first region that is there from
//! the start.
//!
//! Every call runs in a fresh instance, and growing memory is two system calls of the host. A typical call finds all it
//! needs in the first region and never grows: 80 µs become 70 (`cargo xtask bench call`).
#![allow(unsafe_code, reason = "an allocator hands out raw memory")]

use core::arch::wasm32;
use core::cell::UnsafeCell;
use core::ptr;
use core::sync::atomic::{AtomicBool, Ordering};
use std::alloc::{GlobalAlloc, Layout};

use dlmalloc::{Allocator, Dlmalloc};

/// Bytes of the first region; zeros, so that they take no room in the component.
const FIRST: usize = 512 << 10;

/// A page of WebAssembly.
const PAGE: usize = 64 << 10;

#[repr(align(16))]
struct Region(UnsafeCell<[u8; FIRST]>);

// SAFETY: only its address is taken, once, by `Memory::alloc`.
unsafe impl Sync for Region {}

static REGION: Region = Region(UnsafeCell::new([0; FIRST]));
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Where dlmalloc gets memory from.
struct Memory;

// SAFETY: the first region is given out once; `memory.grow` gives new memory each time. Nothing is taken back.
unsafe impl Allocator for Memory {
    fn alloc(&self, size: usize) -> (*mut u8, usize, u32) {
        if size <= FIRST && !TAKEN.swap(true, Ordering::Relaxed) {
            return (REGION.0.get().cast(), FIRST, 0);
        }
        let pages = size.div_ceil(PAGE);
        match wasm32::memory_grow::<0>(pages) {
            usize::MAX => (ptr::null_mut(), 0, 0),
            before => ((before * PAGE) as *mut u8, pages * PAGE, 0),
        }
    }

    fn remap(&self, _: *mut u8, _: usize, _: usize, _: bool) -> *mut u8 {
        ptr::null_mut()
    }

    fn free_part(&self, _: *mut u8, _: usize, _: usize) -> bool {
        false
    }

    fn free(&self, _: *mut u8, _: usize) -> bool {
        false
    }

    fn can_release_part(&self, _: u32) -> bool {
        false
    }

    fn allocates_zeros(&self) -> bool {
        true
    }

    fn page_size(&self) -> usize {
        PAGE
    }
}

struct Heap(UnsafeCell<Dlmalloc<Memory>>);

// SAFETY: the target has one thread.
unsafe impl Sync for Heap {}

#[global_allocator]
static HEAP: Heap = Heap(UnsafeCell::new(Dlmalloc::new_with_allocator(Memory)));

// SAFETY: dlmalloc keeps the contract, and no reference to it outlives a call.
unsafe impl GlobalAlloc for Heap {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: one thread, and the caller's promises about `layout`.
        unsafe { (*self.0.get()).malloc(layout.size(), layout.align()) }
    }

    #[inline]
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above, and `ptr` comes from here.
        unsafe { (*self.0.get()).free(ptr, layout.size(), layout.align()) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { (*self.0.get()).calloc(layout.size(), layout.align()) }
    }

    #[inline]
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        unsafe { (*self.0.get()).realloc(ptr, layout.size(), layout.align(), size) }
    }
}
