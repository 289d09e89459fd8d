//! The greatest memory that this process held, as Linux counts it.

/// The peak since the last reset in bytes; `None` where the system does not tell.
pub fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(1024 * kilobytes)
}

/// Forgets the peak of the set-up (reading files, copies of weights), which is not the work's.
pub fn reset_peak() {
    // Where it cannot be written, the peak of the set-up stays in: never to our advantage.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}
