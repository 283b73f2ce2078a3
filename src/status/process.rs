//! What this process costs, from `/proc/self`. `None` where the system does not tell.

use std::fs;

/// Resident memory now, in bytes.
pub(super) fn memory_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    Some(number_after(&status, "VmRSS:")? * 1_024)
}

/// What this process has had written to disk since it began, in bytes.
pub(super) fn written_bytes() -> Option<u64> {
    let io = fs::read_to_string("/proc/self/io").ok()?;
    number_after(&io, "write_bytes:")
}

/// The number in the line that begins with `name`.
fn number_after(text: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines();
    let rest = lines.find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_by_the_beginning_of_their_line() {
        let text = "cancelled_write_bytes: 7\nwrite_bytes: 4096\n";
        assert_eq!(number_after(text, "write_bytes:"), Some(4_096));
        assert_eq!(number_after(text, "VmRSS:"), None);
        assert_eq!(number_after("VmRSS:\t  812 kB", "VmRSS:"), Some(812));
    }

    #[test]
    fn linux_tells_both_of_this_process() {
        assert!(memory_bytes().is_some_and(|bytes| bytes > 100_000));
        assert!(written_bytes().is_some());
    }
}
