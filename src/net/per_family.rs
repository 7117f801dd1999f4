//! One value for each address family.

use std::ops::{Index, IndexMut};

use super::Family;

/// A value for IPv4 and one for IPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PerFamily<T> {
    /// The value of IPv4.
    pub v4: T,
    /// The value of IPv6.
    pub v6: T,
}

impl<T> PerFamily<T> {
    /// Creates the value of each family, IPv4 first.
    pub fn new(mut of: impl FnMut(Family) -> T) -> Self {
        let v4 = of(Family::V4);
        let v6 = of(Family::V6);
        Self { v4, v6 }
    }

    /// Returns both values with their families.
    pub fn iter(&self) -> impl Iterator<Item = (Family, &T)> {
        Family::BOTH
            .into_iter()
            .map(|family| (family, &self[family]))
    }
}

impl<T> PerFamily<Option<T>> {
    /// Returns the present values with their families.
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
