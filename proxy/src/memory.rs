//! The allocator of the daemon.
//!
//! The runtime asks for several blocks of each session that are aligned to 128 bytes, for which glibc's allocator searches long,
//! and what glibc has needed once it keeps: see "What was tried" in docs/benchmarks.md.

use std::ffi::c_char;
use std::ptr;

use nix::errno::Errno;
use tikv_jemalloc_sys::mallctl;
use tikv_jemallocator::Jemalloc;
use tracing::warn;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// As jemalloc reads it when it starts (jemalloc(3), TUNING): what is free is free for a second before it is given back, rather
/// than for ten.
#[unsafe(export_name = "_rjem_malloc_conf")]
static SETTINGS: Settings = Settings(c"dirty_decay_ms:1000,muzzy_decay_ms:0,max_background_threads:1".as_ptr());

/// A C string.
#[repr(transparent)]
struct Settings(*const c_char);

// SAFETY: it is constant.
unsafe impl Sync for Settings {}

/// From now on a thread of the allocator's own gives back what is free, also while nobody allocates: the kernel's own types took
/// some megabytes while the programs were loaded, and crowds leave. The thread has the privileges of the one that calls this.
pub(crate) fn give_back() {
    let mut on = true;
    // SAFETY: the name and the type are those of jemalloc(3).
    let failed = unsafe {
        mallctl(
            c"background_thread".as_ptr(),
            ptr::null_mut(),
            ptr::null_mut(),
            (&raw mut on).cast(),
            size_of::<bool>(),
        )
    };
    if failed != 0 {
        let error = Errno::from_raw(failed);
        warn!("memory that is free is given back only while sessions come and go: {error}");
    }
}
