//! The crates that offer longest-prefix match, each asked for the value alone in its fastest way for one family.

/// Implements [`Library`](crate::library::Library) for each crate, once for each family.
macro_rules! crates {
    ($addr:ty, $ip:ident, $net:ident, $network:ident, $prefix:ident, $longest_match:ident, $patricia:ident,
     $compressed:ident) => {
        use std::net::{IpAddr, $ip};

        use ip_network::$network;
        use ip_network_table_deps_treebitmap::IpLookupTable;
        use ipnet::{IpNet, $net};
        use iptrie::{$compressed, $patricia, $prefix};
        use ts_bart::RoutingTable;

        use crate::library::{Flap, Library};
        use crate::route::Route;

        type Routes<P> = Vec<(P, u32)>;

        fn translate<P>(routes: &[Route<$addr>], prefix: impl Fn(&Route<$addr>) -> P) -> Routes<P> {
            routes
                .iter()
                .map(|route| (prefix(route), route.class))
                .collect()
        }

        fn net(route: &Route<$addr>) -> $net {
            $net::new($ip::from_bits(route.first), route.len).expect("no longer than an address")
        }

        fn network(route: &Route<$addr>) -> $network {
            $network::new($ip::from_bits(route.first), route.len).expect("no host bits")
        }

        fn bits(route: &Route<$addr>) -> ($ip, u32) {
            ($ip::from_bits(route.first), route.len.into())
        }

        /// prefix-trie: a trie of several bits a node.
        pub struct PrefixTrie(prefix_trie::PrefixMap<$net, u32>);

        impl Library<$addr> for PrefixTrie {
            type Routes = Routes<$net>;

            fn routes(routes: &[Route<$addr>]) -> Self::Routes {
                translate(routes, net)
            }

            fn build(routes: &Self::Routes) -> Self {
                Self(routes.iter().copied().collect())
            }

            #[inline(always)]
            fn lookup(&self, addr: $addr) -> u32 {
                let host = $net::from($ip::from_bits(addr));
                self.0.get_lpm(&host).map_or(0, |(_, class)| *class)
            }

            fn flap(&mut self, route: &Route<$addr>) -> Flap {
                self.0.remove(&net(route));
                self.0.insert(net(route), route.class);
                Flap::Done
            }
        }

        /// ip_network_table: treebitmap for both families.
        pub struct IpNetworkTable(ip_network_table::IpNetworkTable<u32>);

        impl Library<$addr> for IpNetworkTable {
            type Routes = Routes<$network>;

            fn routes(routes: &[Route<$addr>]) -> Self::Routes {
                translate(routes, network)
            }

            fn build(routes: &Self::Routes) -> Self {
                let mut table = ip_network_table::IpNetworkTable::new();
                for (network, class) in routes {
                    table.insert(*network, *class);
                }
                Self(table)
            }

            #[inline(always)]
            fn lookup(&self, addr: $addr) -> u32 {
                let found = self.0.$longest_match($ip::from_bits(addr));
                found.map_or(0, |(_, class)| *class)
            }

            fn flap(&mut self, route: &Route<$addr>) -> Flap {
                self.0.remove(network(route));
                self.0.insert(network(route), route.class);
                Flap::Done
            }
        }

        /// ip_network_table-deps-treebitmap: a tree of bitmaps, four bits a node.
        pub struct Treebitmap(IpLookupTable<$ip, u32>);

        impl Library<$addr> for Treebitmap {
            type Routes = Routes<($ip, u32)>;

            fn routes(routes: &[Route<$addr>]) -> Self::Routes {
                translate(routes, bits)
            }

            fn build(routes: &Self::Routes) -> Self {
                let mut table = IpLookupTable::new();
                for ((first, len), class) in routes {
                    table.insert(*first, *len, *class);
                }
                Self(table)
            }

            #[inline(always)]
            fn lookup(&self, addr: $addr) -> u32 {
                let found = self.0.longest_match($ip::from_bits(addr));
                found.map_or(0, |(_, _, class)| *class)
            }

            fn flap(&mut self, route: &Route<$addr>) -> Flap {
                let (first, len) = bits(route);
                self.0.remove(first, len);
                self.0.insert(first, len, route.class);
                Flap::Done
            }
        }

        /// ipnet-trie: prefix-trie for both families.
        pub struct IpnetTrie(ipnet_trie::IpnetTrie<u32>);

        impl Library<$addr> for IpnetTrie {
            type Routes = Routes<$net>;

            fn routes(routes: &[Route<$addr>]) -> Self::Routes {
                translate(routes, net)
            }

            fn build(routes: &Self::Routes) -> Self {
                let mut table = ipnet_trie::IpnetTrie::new();
                for (net, class) in routes {
                    table.insert(*net, *class);
                }
                Self(table)
            }

            #[inline(always)]
            fn lookup(&self, addr: $addr) -> u32 {
                let host = $net::from($ip::from_bits(addr));
                self.0.$longest_match(&host).map_or(0, |(_, class)| *class)
            }

            fn flap(&mut self, route: &Route<$addr>) -> Flap {
                self.0.remove(net(route));
                self.0.insert(net(route), route.class);
                Flap::Done
            }
        }

        fn iptrie_prefix(route: &Route<$addr>) -> $prefix {
            $prefix::new($ip::from_bits(route.first), route.len).expect("no longer than an address")
        }

        /// iptrie's Patricia trie.
        pub struct Patricia($patricia<u32>);

        impl Library<$addr> for Patricia {
            type Routes = Routes<$prefix>;

            fn routes(routes: &[Route<$addr>]) -> Self::Routes {
                translate(routes, iptrie_prefix)
            }

            fn build(routes: &Self::Routes) -> Self {
                Self(routes.iter().copied().collect())
            }

            #[inline(always)]
            fn lookup(&self, addr: $addr) -> u32 {
                *self.0.lookup(&$ip::from_bits(addr)).1
            }

            fn flap(&mut self, route: &Route<$addr>) -> Flap {
                let prefix = iptrie_prefix(route);
                self.0.remove(&prefix);
                self.0.insert(prefix, route.class);
                Flap::Done
            }
        }

        /// iptrie's level-compressed trie, which does not change.
        pub struct LevelCompressed($compressed<u32>);

        impl Library<$addr> for LevelCompressed {
            type Routes = Routes<$prefix>;

            fn routes(routes: &[Route<$addr>]) -> Self::Routes {
                translate(routes, iptrie_prefix)
            }

            fn build(routes: &Self::Routes) -> Self {
                let trie: $patricia<u32> = routes.iter().copied().collect();
                Self(trie.compress())
            }

            #[inline(always)]
            fn lookup(&self, addr: $addr) -> u32 {
                *self.0.lookup(&$ip::from_bits(addr)).1
            }
        }

        /// poptrie: six bits a node, bitmaps and packed leaves.
        pub struct Poptrie(poptrie::Poptrie<($addr, u8), u32>);

        impl Library<$addr> for Poptrie {
            type Routes = Routes<($addr, u8)>;

            fn routes(routes: &[Route<$addr>]) -> Self::Routes {
                translate(routes, |route| (route.first, route.len))
            }

            fn build(routes: &Self::Routes) -> Self {
                Self(routes.iter().copied().collect())
            }

            #[inline(always)]
            fn lookup(&self, addr: $addr) -> u32 {
                self.0.lookup(addr).map_or(0, |class| *class)
            }

            fn flap(&mut self, route: &Route<$addr>) -> Flap {
                self.0.remove((route.first, route.len));
                self.0.insert((route.first, route.len), route.class);
                Flap::Done
            }
        }

        /// routemap: a tree of bitmaps in one arena.
        pub struct Routemap(routemap::RouteMap<$ip, u32>);

        fn routemap_prefix(route: &Route<$addr>) -> ipnetx::prefix::IpPrefix<$ip> {
            let prefix = ipnetx::prefix::IpPrefix::new($ip::from_bits(route.first), route.len);
            prefix.expect("no longer than an address")
        }

        impl Library<$addr> for Routemap {
            type Routes = Routes<ipnetx::prefix::IpPrefix<$ip>>;

            fn routes(routes: &[Route<$addr>]) -> Self::Routes {
                translate(routes, routemap_prefix)
            }

            fn build(routes: &Self::Routes) -> Self {
                let mut table = routemap::RouteMap::new();
                for (prefix, class) in routes {
                    table.insert(*prefix, *class);
                }
                Self(table)
            }

            #[inline(always)]
            fn lookup(&self, addr: $addr) -> u32 {
                self.0
                    .longest_match($ip::from_bits(addr))
                    .map_or(0, |class| *class)
            }

            fn flap(&mut self, route: &Route<$addr>) -> Flap {
                self.0.remove(routemap_prefix(route));
                self.0.insert(routemap_prefix(route), route.class);
                Flap::Done
            }
        }

        /// ts_bart: Tailscale's port of Go's bart.
        pub struct Bart(ts_bart::Table<u32>);

        impl Library<$addr> for Bart {
            type Routes = Routes<IpNet>;

            fn routes(routes: &[Route<$addr>]) -> Self::Routes {
                translate(routes, |route| net(route).into())
            }

            fn build(routes: &Self::Routes) -> Self {
                let mut table = ts_bart::Table::default();
                for (net, class) in routes {
                    table.insert(*net, *class);
                }
                Self(table)
            }

            #[inline(always)]
            fn lookup(&self, addr: $addr) -> u32 {
                let addr = IpAddr::from($ip::from_bits(addr));
                self.0.lookup(addr).map_or(0, |class| *class)
            }

            fn flap(&mut self, route: &Route<$addr>) -> Flap {
                self.0.remove(net(route).into());
                self.0.insert(net(route).into(), route.class);
                Flap::Done
            }
        }
    };
}

/// For IPv4.
pub mod v4 {
    crates!(
        u32,
        Ipv4Addr,
        Ipv4Net,
        Ipv4Network,
        Ipv4Prefix,
        longest_match_ipv4,
        Ipv4RTrieMap,
        Ipv4LCTrieMap
    );
}

/// For IPv6.
pub mod v6 {
    crates!(
        u128,
        Ipv6Addr,
        Ipv6Net,
        Ipv6Network,
        Ipv6Prefix,
        longest_match_ipv6,
        Ipv6RTrieMap,
        Ipv6LCTrieMap
    );
}
