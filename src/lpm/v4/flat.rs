//! A cell for every /24 in one array: one load, and 16 MiB.
//!
//! ```text
//!   address   | 24 bits: cell | 8 bits |
//!   cells     | 0 | 0 | 7 | 7 | DEEP | 3 | ...
//! ```
//!
//! What the [`pages`](super::pages) fold away is laid out here: addresses that roam over the whole Internet then miss the
//! cache once, not twice. The array asks for huge pages, eight of which take it: with small ones it would outgrow the
//! TLB, and be slower than what it replaces.

use std::sync::Arc;

use memmap2::{Advice, Mmap, MmapMut};

use super::pages::{CELL_SHIFT, Cell, Deep, PAGE, Pages};

/// The number of /24s.
const CELLS: usize = 1 << (u32::BITS - CELL_SHIFT);

/// A class for each /24, of one byte.
#[derive(Clone)]
pub(super) struct Flat {
    cells: Arc<Mmap>,
    deep: Deep,
}

impl Flat {
    /// Lays pages out; `None` if the system has no memory for that.
    pub(super) fn new(pages: &Pages<u8>) -> Option<Self> {
        let mut cells = MmapMut::map_anon(CELLS).ok()?;
        // A kernel without huge pages has small ones.
        let _ = cells.advise(Advice::HugePage);
        for (content, page) in cells.as_chunks_mut().0.iter_mut().zip(pages.root.iter()) {
            let content: &mut [u8; PAGE] = content;
            content.copy_from_slice(&pages.cells[*page as usize..][..PAGE]);
        }
        Some(Self {
            cells: Arc::new(cells.make_read_only().ok()?),
            deep: pages.deep.clone(),
        })
    }

    /// The memory that it takes, in bytes.
    pub(super) fn memory(&self) -> usize {
        self.cells.len() + self.deep.memory()
    }

    /// The class of the interval that holds `key`.
    #[inline]
    pub(super) fn lookup(&self, key: u32) -> u32 {
        let cell = self.cells[(key >> CELL_SHIFT) as usize];
        if cell == u8::DEEP {
            self.deep.class(key)
        } else {
            cell.class()
        }
    }
}
