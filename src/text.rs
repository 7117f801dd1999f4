//! Text that several commands print.

use std::fmt::Display;

/// Returns a number with its noun: "1 mapping", "2 mappings", "2 addresses".
pub(crate) fn count<N: Copy + Display + PartialEq + From<u8>>(number: N, noun: &str) -> String {
    let plural = match noun {
        _ if number == N::from(1) => "",
        _ if noun.ends_with('s') => "es",
        _ => "s",
    };
    format!("{number} {noun}{plural}")
}

/// Returns a time span with its two largest units: "1 h 2 min", "2 min 3 s", "4 s".
pub(crate) fn duration(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds} s"),
        (0, _) => format!("{minutes} min {seconds} s"),
        _ => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::{count, duration};

    #[test]
    fn durations_have_two_units() {
        assert_eq!(duration(4), "4 s");
        assert_eq!(duration(123), "2 min 3 s");
        assert_eq!(duration(3_725), "1 h 2 min");
    }

    #[test]
    fn singular_and_plural() {
        assert_eq!(count(0_u64, "packet"), "0 packets");
        assert_eq!(count(1_usize, "packet"), "1 packet");
        assert_eq!(count(2_u32, "address"), "2 addresses");
    }
}
