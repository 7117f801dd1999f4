//! Packets that the kernel dropped because the TUN's queue was full.

use std::fs;

/// Packets dropped since the device was created; 0 if the counter cannot be read.
pub(super) fn dropped(tun: &str) -> u64 {
    // `/proc/thread-self` belongs to this thread's network namespace; `/sys` need not.
    let devices = fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    parse(&devices, tun).unwrap_or(0)
}

/// Reads the drops of a device's transmit side: the fourth of its last eight columns.
fn parse(devices: &str, name: &str) -> Option<u64> {
    let mut lines = devices.lines().filter_map(|line| line.split_once(':'));
    let (_, columns) = lines.find(|(device, _)| device.trim() == name)?;
    columns.split_whitespace().nth(8 + 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_column_of_the_right_device() {
        let devices = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16
voicelane0: 101 102 103 104 105 106 107 108 109 110 111 112 113 114 115 116
";
        assert_eq!(parse(devices, "voicelane0"), Some(112));
        assert_eq!(parse(devices, "voicelane"), None);
        assert_eq!(parse("", "lo"), None);
    }

    #[test]
    fn the_kernels_own_table_can_be_read() {
        let devices = fs::read_to_string("/proc/thread-self/net/dev").expect("every Linux has it");
        assert!(parse(&devices, "lo").is_some(), "{devices}");
    }
}
