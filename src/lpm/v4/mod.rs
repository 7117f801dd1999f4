//! The engines for IPv4.

mod block;
mod directory;
mod pages;
mod registers;
#[cfg(target_arch = "x86_64")]
mod sse2;
mod tree;

use super::Level;
use directory::{Medium, Small};
use pages::Pages;
use registers::Registers;

/// A compiled table of IPv4 intervals.
#[derive(Clone)]
pub(super) struct Engine {
    kind: Kind,
    /// Looks up many at once where the table is small enough.
    registers: Option<Registers>,
    level: Level,
}

#[derive(Clone)]
enum Kind {
    Small(Small),
    Medium(Medium),
    Large(Large),
}

/// Pages whose cells are as narrow as the classes allow.
#[derive(Clone)]
enum Large {
    Byte(Pages<u8>),
    Half(Pages<u16>),
    Word(Pages<u32>),
}

/// Up to this many intervals go into a directory.
const DIRECTORY_MAX: usize = 4096;

impl Engine {
    /// Compiles intervals (start and class): ascending, the first start is 0, neighbours have different classes below
    /// 2^31.
    pub(super) fn new(intervals: &[(u32, u32)], level: Level) -> Self {
        Self {
            kind: Kind::new(intervals),
            registers: Registers::new(intervals, level),
            level,
        }
    }

    /// The class of the interval that holds `key`.
    #[inline(always)]
    pub(super) fn lookup(&self, key: u32) -> u32 {
        match &self.kind {
            Kind::Small(directory) => directory.lookup(key),
            Kind::Medium(directory) => directory.lookup(key),
            Kind::Large(Large::Byte(pages)) => pages.lookup(key),
            Kind::Large(large) => large.lookup(key),
        }
    }

    /// The class of the interval that holds each of `keys`.
    pub(super) fn lookup_batch(&self, keys: &[u32], classes: &mut [u32]) {
        let _ = self.level;
        if let Some(registers) = &self.registers {
            return registers.lookup_batch(keys, classes);
        }
        macro_rules! each {
            ($engine:expr) => {
                for (key, class) in keys.iter().zip(classes) {
                    *class = $engine.lookup(*key);
                }
            };
        }
        match &self.kind {
            Kind::Small(directory) => each!(directory),
            Kind::Medium(directory) => each!(directory),
            Kind::Large(Large::Byte(pages)) => each!(pages),
            Kind::Large(Large::Half(pages)) => each!(pages),
            Kind::Large(Large::Word(pages)) => each!(pages),
        }
    }

    /// The memory that it takes, in bytes.
    pub(super) fn memory(&self) -> usize {
        let registers = self.registers.as_ref().map_or(0, Registers::memory);
        registers
            + match &self.kind {
                Kind::Small(directory) => directory.memory(),
                Kind::Medium(directory) => directory.memory(),
                Kind::Large(Large::Byte(pages)) => pages.memory(),
                Kind::Large(Large::Half(pages)) => pages.memory(),
                Kind::Large(Large::Word(pages)) => pages.memory(),
            }
    }

    /// What it is, for reports.
    pub(super) fn name(&self) -> &'static str {
        match (&self.kind, &self.registers) {
            (Kind::Small(_), None) => "small directory",
            (Kind::Small(_), Some(_)) => "small directory and registers",
            (Kind::Medium(_), None) => "directory",
            (Kind::Medium(_), Some(_)) => "directory and registers",
            (Kind::Large(Large::Byte(_)), _) => "pages of bytes",
            (Kind::Large(Large::Half(_)), _) => "pages of 16 bits",
            (Kind::Large(Large::Word(_)), _) => "pages of 32 bits",
        }
    }
}

impl Large {
    #[inline(never)]
    fn lookup(&self, key: u32) -> u32 {
        match self {
            Self::Byte(pages) => pages.lookup(key),
            Self::Half(pages) => pages.lookup(key),
            Self::Word(pages) => pages.lookup(key),
        }
    }
}

impl Kind {
    fn new(intervals: &[(u32, u32)]) -> Self {
        if intervals.len() <= DIRECTORY_MAX {
            if let Some(small) = Small::new(intervals).filter(|small| small.crowded() == 0) {
                return Self::Small(small);
            }
            if let Some(medium) = Medium::new(intervals) {
                return Self::Medium(medium);
            }
        }
        Self::Large(if let Some(pages) = Pages::new(intervals) {
            Large::Byte(pages)
        } else if let Some(pages) = Pages::new(intervals) {
            Large::Half(pages)
        } else {
            Large::Word(Pages::new(intervals).expect("classes have 31 bits"))
        })
    }
}
