//! Reads files that other programs and users may have placed.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::libc::O_NONBLOCK;

/// Reads a regular file of at most `max` bytes.
///
/// # Errors
/// As for every read, and when the file is not regular or is larger. Opening a FIFO never waits for its writer.
pub(crate) fn read_regular(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(O_NONBLOCK)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other(
            "it is not a regular file; a pipe, a device or a directory cannot be read here",
        ));
    }
    let mut bytes = Vec::new();
    if file.take(max + 1).read_to_end(&mut bytes)? as u64 > max {
        let error = format!("the file is larger than {} MiB", max >> 20);
        return Err(io::Error::other(error));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn a_fifo_a_device_and_a_directory_are_refused_at_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let fifo = dir.path().join("fifo");
        mkfifo(&fifo, Mode::S_IRWXU).expect("it is ours");
        for path in [&fifo, dir.path(), Path::new("/dev/zero")] {
            let error = read_regular(path, 9).expect_err("not a regular file");
            assert!(error.to_string().contains("regular"), "{error}");
        }
        let file = dir.path().join("file");
        fs::write(&file, "123456789").expect("a file");
        assert_eq!(read_regular(&file, 9).expect("short"), b"123456789");
        assert!(read_regular(&file, 8).is_err());
    }
}
