//! Tests of mappings and their table.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// RFC 4787 without slots, generations and timers.
#[derive(Default)]
struct Model {
    mappings: BTreeMap<Inside<Endpoint>, (MappingId, Instant, BTreeSet<Endpoint>)>,
    answered: BTreeSet<MappingId>,
}

impl Model {
    fn admits(
        &self,
        filtering: Filtering,
        id: MappingId,
        from: Endpoint,
    ) -> Option<Inside<Endpoint>> {
        let (inside, (_, _, sent)) = self.mappings.iter().find(|(_, (known, ..))| *known == id)?;
        let admitted = match filtering {
            Filtering::EndpointIndependent => true,
            Filtering::AddressDependent => sent.iter().any(|to| to.addr == from.addr),
            Filtering::AddressAndPortDependent => sent.contains(&from),
        };
        admitted.then_some(*inside)
    }
}

#[derive(Clone, Debug)]
enum Operation {
    Outbound { inside: Endpoint, remote: Endpoint },
    Inbound { which: usize, from: Endpoint },
    Wait { seconds: u64 },
    Fail { which: usize },
}

/// Each table has its own secret, so a program cannot choose colliding endpoints.
#[test]
fn each_table_has_its_own_hash_key() {
    let [one, other] = [(); 2].map(|()| MappingTable::new(NatSettings::default()));
    let key = Inside(Endpoint::new([10, 8, 0, 2].into(), 50_000));
    let hash = |table: &MappingTable| table.hasher.hash_one(key);
    assert_eq!(hash(&one), hash(&one));
    assert_ne!(hash(&one), hash(&other));
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let addr = prop_oneof![
        Just("10.8.0.2"),
        Just("192.168.1.10"),
        Just("2001:db8::2"),
        Just("2001:db8::3")
    ];
    (addr, 1u16..4).prop_map(|(addr, port)| Endpoint::new(addr.parse().expect("an address"), port))
}

fn step() -> impl Strategy<Value = Operation> {
    prop_oneof![
        4 => (endpoint(), endpoint()).prop_map(|(inside, remote)| Operation::Outbound { inside, remote }),
        4 => (any::<usize>(), endpoint()).prop_map(|(which, from)| Operation::Inbound { which, from }),
        2 => (0u64..200).prop_map(|seconds| Operation::Wait { seconds }),
        1 => any::<usize>().prop_map(|which| Operation::Fail { which }),
    ]
}

fn filtering() -> impl Strategy<Value = Filtering> {
    prop_oneof![
        Just(Filtering::EndpointIndependent),
        Just(Filtering::AddressDependent),
        Just(Filtering::AddressAndPortDependent),
    ]
}

proptest! {
    #[test]
    fn the_table_does_what_the_model_does(filtering in filtering(), steps in prop::collection::vec(step(), 0..80)) {
        let settings = NatSettings { filtering, ..NatSettings::default() };
        let (mut table, mut model) = (MappingTable::new(settings), Model::default());
        let mut now = Instant::now();
        let mut ids = Vec::new();
        for step in steps {
            match step {
                Operation::Outbound { inside, remote } => {
                    let inside = Inside(inside);
                    let mapped = table.map(inside, remote, now).expect("the limits are far");
                    let known = model.mappings.get_mut(&inside);
                    match (mapped, known) {
                        (Mapped::Known(id), Some((same, refreshed, sent))) => {
                            prop_assert_eq!(id, *same, "endpoint-independent mapping");
                            *refreshed = now;
                            sent.insert(remote);
                        }
                        (Mapped::New(id), None) => {
                            prop_assert!(!ids.contains(&id), "an id is never used twice");
                            table.opened(id, Outside(remote));
                            model.mappings.insert(inside, (id, now, BTreeSet::from([remote])));
                            ids.push(id);
                        }
                        (mapped, known) => prop_assert!(false, "{mapped:?} but {known:?}"),
                    }
                }
                Operation::Inbound { which, from } => {
                    let Some(&id) = ids.get(which % ids.len().max(1)) else { continue };
                    let admitted = table.admit(id, from, now).ok();
                    prop_assert_eq!(admitted, model.admits(filtering, id, from));
                    if admitted.is_some() {
                        model.answered.insert(id);
                    }
                }
                Operation::Wait { seconds } => {
                    now += Duration::from_secs(seconds);
                    let due = table.poll_timeout();
                    let mut ended = BTreeSet::new();
                    while let Some((id, mapping)) = table.expire(now) {
                        prop_assert!(due.is_some_and(|due| due <= now), "nothing ends before it is due");
                        ended.insert((id, mapping.inside));
                    }
                    let mut expected = BTreeSet::new();
                    model.mappings.retain(|inside, (id, refreshed, _)| {
                        let lifetime = if model.answered.contains(id) { settings.lifetime } else { UNANSWERED_LIFETIME };
                        let over = *refreshed + lifetime <= now;
                        if over {
                            expected.insert((*id, *inside));
                        }
                        !over
                    });
                    prop_assert_eq!(ended, expected);
                }
                Operation::Fail { which } => {
                    let Some(&id) = ids.get(which % ids.len().max(1)) else { continue };
                    let removed = table.remove(id).map(|mapping| mapping.inside);
                    let known = model.mappings.iter().find(|(_, (known, ..))| *known == id);
                    let known = known.map(|(inside, _)| *inside);
                    prop_assert_eq!(removed, known);
                    model.mappings.retain(|_, (known, ..)| *known != id);
                }
            }
            prop_assert_eq!(table.len(), model.mappings.len());
            let all = table.within(0..table.slots());
            let listed: BTreeSet<_> = all.map(|(id, mapping)| (mapping.inside, id)).collect();
            let expected: BTreeSet<_> = model.mappings.iter().map(|(inside, (id, ..))| (*inside, *id)).collect();
            prop_assert_eq!(listed, expected);
        }
    }
}

#[test]
fn only_the_oldest_unanswered_mapping_is_evicted() {
    let mut table = MappingTable::new(NatSettings::default());
    let (now, remote) = (Instant::now(), endpoint_at("192.0.2.9", 1));
    let create = |table: &mut MappingTable, inside: Endpoint| {
        let mapped = table.map(Inside(inside), remote, now);
        let Ok(Mapped::New(id)) = mapped else {
            panic!("{mapped:?}")
        };
        table.opened(id, Outside(inside));
        id
    };
    let [first, second, third] =
        [1, 2, 3].map(|port| create(&mut table, endpoint_at("10.8.0.2", port)));
    let other = create(&mut table, endpoint_at("10.8.0.3", 1));
    table.admit(first, remote, now).expect("it has sent there");
    let address = "10.8.0.2".parse().expect("an address");
    let evicted = |table: &mut MappingTable| table.evict(address).map(|(id, _)| id);
    assert_eq!(evicted(&mut table), Some(second));
    assert_eq!(evicted(&mut table), Some(third));
    assert_eq!(evicted(&mut table), None);
    assert!(table.get(first).is_some() && table.get(other).is_some());
    // Answered and ended mappings do not accumulate.
    for port in 10..10_000 {
        let id = create(&mut table, endpoint_at("10.8.0.2", port));
        table.admit(id, remote, now).expect("it has sent there");
        table.remove(id);
    }
    assert!(table.per_address[&address].unanswered.len() <= 4);
}

fn endpoint_at(address: &str, port: u16) -> Endpoint {
    Endpoint::new(address.parse().expect("an address"), port)
}

#[test]
fn a_full_table_rejects_without_a_change() {
    let limits = NatLimits {
        mappings: 1,
        permitted_remotes: 1,
        ..NatLimits::default()
    };
    let mut table = MappingTable::new(NatSettings {
        limits,
        ..NatSettings::default()
    });
    let now = Instant::now();
    let endpoint = |port| Endpoint::new("192.0.2.1".parse().expect("an address"), port);
    let other = Endpoint::new("192.0.2.2".parse().expect("an address"), 1);
    assert!(matches!(
        table.map(Inside(endpoint(1)), endpoint(9), now),
        Ok(Mapped::New(_))
    ));
    assert_eq!(
        table.map(Inside(endpoint(2)), endpoint(9), now),
        Err(MapError::Mappings)
    );
    assert_eq!(
        table.map(Inside(endpoint(1)), other, now),
        Err(MapError::PermittedRemotes)
    );
    assert!(matches!(
        table.map(Inside(endpoint(1)), endpoint(9), now),
        Ok(Mapped::Known(_))
    ));
    assert_eq!(table.len(), 1);
}
