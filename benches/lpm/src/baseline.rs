//! What anyone would write first: a search through the list, and a binary search through disjoint intervals.

use crate::library::Library;
use crate::route::{Address, Route};

/// The routes, the longest prefixes first: the first one that holds the address is it.
pub struct LinearScan<A>(Vec<Route<A>>);

impl<A: Address> Library<A> for LinearScan<A> {
    type Routes = Vec<Route<A>>;

    fn routes(routes: &[Route<A>]) -> Self::Routes {
        routes.to_vec()
    }

    fn build(routes: &Self::Routes) -> Self {
        let mut routes = routes.clone();
        routes.sort_by_key(|route| std::cmp::Reverse(route.len));
        Self(routes)
    }

    #[inline(always)]
    fn lookup(&self, addr: A) -> u32 {
        let found = self.0.iter().find(|route| route.contains(addr));
        found.map_or(0, |route| route.class)
    }
}

/// The starts of disjoint intervals, ascending from 0, and the class of each.
pub struct BinarySearch<A> {
    starts: Vec<A>,
    classes: Vec<u32>,
}

impl<A: Address> Library<A> for BinarySearch<A> {
    type Routes = Vec<Route<A>>;

    fn routes(routes: &[Route<A>]) -> Self::Routes {
        routes.to_vec()
    }

    fn build(routes: &Self::Routes) -> Self {
        let mut built = Self {
            starts: vec![A::from(0)],
            classes: vec![0],
        };
        // The prefixes that hold the address at hand; each ascends before what it covers.
        let mut open: Vec<&Route<A>> = Vec::new();
        for route in routes {
            while let Some(outer) = open.pop_if(|outer| outer.last() < route.first) {
                built.close(outer, &open);
            }
            built.push(route.first, route.class);
            open.push(route);
        }
        while let Some(outer) = open.pop() {
            built.close(outer, &open);
        }
        built
    }

    #[inline(always)]
    fn lookup(&self, addr: A) -> u32 {
        let after = self.starts.partition_point(|start| *start <= addr);
        self.classes[after - 1]
    }
}

impl<A: Address> BinarySearch<A> {
    /// Goes back to what covers a prefix, after its last address.
    fn close(&mut self, route: &Route<A>, open: &[&Route<A>]) {
        if let Some(next) = route.last().next() {
            self.push(next, open.last().map_or(0, |outer| outer.class));
        }
    }

    fn push(&mut self, start: A, class: u32) {
        if self.starts.last() == Some(&start) {
            self.starts.pop();
            self.classes.pop();
        }
        if self.classes.last() != Some(&class) {
            self.starts.push(start);
            self.classes.push(class);
        }
    }
}
