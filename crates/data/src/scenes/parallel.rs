//! Many independent results in their order, on several threads.

use std::ops::Range;
use std::panic;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// `make` of every number of the range, in order, whatever the number of threads.
pub(super) fn map<T: Send>(
    range: Range<usize>,
    threads: usize,
    make: impl Fn(usize) -> T + Sync,
) -> Vec<T> {
    let threads = threads.min(range.len());
    if threads <= 1 {
        return range.map(make).collect();
    }
    let next = AtomicUsize::new(range.start);
    let mut made: Vec<(usize, T)> = Vec::with_capacity(range.len());
    thread::scope(|scope| {
        let work = || {
            let mut mine = Vec::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= range.end {
                    return mine;
                }
                mine.push((at, make(at)));
            }
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            match worker.join() {
                Ok(mine) => made.extend(mine),
                Err(payload) => panic::resume_unwind(payload),
            }
        }
    });
    made.sort_unstable_by_key(|&(at, _)| at);
    made.into_iter().map(|(_, value)| value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order() {
        for threads in [0, 1, 3, 50] {
            assert_eq!(map(2..7, threads, |at| at * at), [4, 9, 16, 25, 36]);
        }
        assert!(map(3..3, 2, |at| at).is_empty());
    }
}
