//! One of a thing for each address family.

use std::ops::{Index, IndexMut};

use super::Family;

/// A value for IPv4 and one for IPv6, which need not be the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerFamily<T> {
    /// IPv4's.
    pub v4: T,
    /// IPv6's.
    pub v6: T,
}

impl<T> PerFamily<T> {
    /// Makes each family's, IPv4's first.
    pub fn new(mut of: impl FnMut(Family) -> T) -> Self {
        let v4 = of(Family::V4);
        let v6 = of(Family::V6);
        Self { v4, v6 }
    }

    /// Both, with their families.
    pub fn iter(&self) -> impl Iterator<Item = (Family, &T)> {
        Family::BOTH
            .into_iter()
            .map(|family| (family, &self[family]))
    }
}

impl<T> PerFamily<Option<T>> {
    /// Those that are there, with their families.
    pub fn present(&self) -> impl Iterator<Item = (Family, &T)> {
        self.iter()
            .filter_map(|(family, it)| Some((family, it.as_ref()?)))
    }
}

impl<T> Index<Family> for PerFamily<T> {
    type Output = T;

    fn index(&self, family: Family) -> &T {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

impl<T> IndexMut<Family> for PerFamily<T> {
    fn index_mut(&mut self, family: Family) -> &mut T {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}
