//! What must hold for every plan, on random machines and random disks to rebuild them on.

use proptest::prelude::*;

use super::testing::{GIB, MIB, disk, empty, fs, gpt, mount, partition};
use super::*;
use crate::layout::{Id, Table};

const MODELS: &[Option<&str>] = &[None, Some("ACME 1"), Some("ACME 2")];

/// What a disk is made from.
#[derive(Debug, Clone)]
struct Seed {
    gib: u64,
    serial: Option<u8>,
    place: Option<u8>,
    model: usize,
    /// GUID of its table; none is blank.
    table: Option<u8>,
    removable: bool,
}

fn seed() -> impl Strategy<Value = Seed> {
    let some = |n: u8| prop::option::weighted(0.6, 0..n);
    (1_u64..4, some(6), some(6), 0..MODELS.len(), some(6), prop::bool::weighted(0.1)).prop_map(
        |(gib, serial, place, model, table, removable)| Seed {
            gib,
            serial,
            place,
            model,
            table,
            removable,
        },
    )
}

/// A machine on these disks, each with a filesystem on a partition where it has a table.
fn machine(seeds: &[Seed], prefix: &str) -> Layout {
    let mut layout = empty();
    for (seed, letter) in seeds.iter().zip('a'..) {
        let name = format!("{prefix}{letter}");
        let mut d = disk(&name, seed.gib * GIB);
        d.serial = seed.serial.map(|n| format!("SER{n}"));
        d.path = seed.place.map(|n| format!("pci-{n}"));
        d.model = MODELS[seed.model].map(str::to_owned);
        d.removable = seed.removable;
        if let Some(guid) = seed.table {
            gpt(&mut d, guid + 1);
            let part = partition(&name, 1, MIB, GIB / 2);
            let fs = fs(&part.id, "ext4", GIB / 2);
            let path = if layout.mount.is_empty() { "/".to_owned() } else { format!("/{name}") };
            layout.mount.push(mount(&path, &fs.id));
            layout.fs.push(fs);
            layout.partition.push(part);
        }
        layout.disk.push(d);
    }
    layout
}

fn seeds(most: usize) -> impl Strategy<Value = Vec<Seed>> {
    prop::collection::vec(seed(), 1..=most)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_plan_keeps_the_promises(
        old in seeds(3),
        new in seeds(5),
        kept in prop::collection::vec(0..5_usize, 0..2),
        erase in prop::collection::vec(0..6_u8, 0..2),
        mapped in prop::collection::vec((0..3_usize, 0..5_usize), 0..4),
        grow in any::<bool>(),
    ) {
        let recorded = machine(&old, "sd");
        let present = machine(&new, "vd");
        let name = |prefix: &str, n: usize| format!("{prefix}{}", ('a'..).nth(n).unwrap());
        let answers = Answers {
            auto: true,
            map: mapped.iter().map(|(o, n)| (name("sd", *o), name("vd", *n))).collect(),
            erase: erase.iter().map(|n| format!("SER{n}")).collect(),
            keep: kept
                .iter()
                .map(|n| KeptDisk { name: name("vd", *n), why: "is the boot medium".into() })
                .collect(),
            grow,
            ..Answers::default()
        };
        let planned = plan(&recorded, &present, &answers);
        prop_assert_eq!(&planned, &plan(&recorded, &present, &answers), "planned again");
        let Ok(planned) = planned else {
            let text = planned.unwrap_err().to_string();
            prop_assert!(text.contains("hint: "), "{}", text);
            return Ok(());
        };
        // Each recorded disk has a disk of its own, if nobody gave it that of another.
        let mut names: Vec<_> = planned.erases().into_iter().map(|d| d.name).collect();
        let places: std::collections::BTreeSet<_> = mapped.iter().map(|(_, new)| new).collect();
        let disks = recorded.disk.len() - (mapped.len() - places.len());
        prop_assert_eq!(names.len(), disks);
        names.sort();
        names.dedup();
        prop_assert_eq!(names.len(), disks);
        let filesystems = |layout: &Layout| {
            layout.fs.iter().map(|fs| fs.uuid.clone()).collect::<std::collections::BTreeSet<_>>()
        };
        prop_assert_eq!(filesystems(&planned.layout), filesystems(&recorded));
        for found in &planned.disks {
            let consented = found.holds.is_empty()
                || recorded.disk.iter().any(|d| d.table.is_some() && guid(d) == guid(&found.new))
                || recorded.disk.iter().any(|d| d.serial.is_some() && d.serial == found.new.serial)
                || answers.erase.iter().any(|name| is_called(&found.new, name));
            prop_assert!(consented, "{} holds {:?}", found.new.name, found.holds);
            prop_assert!(answers.keep.iter().all(|k| k.name != found.new.name));
        }
        check_steps(&planned, &names)?;
    }
}

fn guid(disk: &Disk) -> Option<uuid::Uuid> {
    match &disk.table {
        Some(Table::Gpt { guid, .. }) => Some(*guid),
        _ => None,
    }
}

/// The steps touch the listed disks and nothing else, and stay inside them.
fn check_steps(planned: &Plan, names: &[String]) -> Result<(), TestCaseError> {
    let listed = |dev: &str| {
        let name = dev.strip_prefix("/dev/").unwrap_or(dev);
        names.iter().any(|disk| name.starts_with(disk.as_str()))
    };
    for step in &planned.steps {
        match step {
            Step::Release(s) => prop_assert!(s.disks.iter().all(|d| listed(d))),
            Step::Wipe(s) => {
                prop_assert!(names.contains(&s.disk.name));
                prop_assert!(s.areas.iter().all(|(at, len)| at + len <= s.disk.size_bytes));
            }
            Step::WriteTable(s) => {
                prop_assert!(names.contains(&s.name));
                let Table::Gpt { last_usable_lba, .. } = s.table else { unreachable!() };
                for p in &s.partitions {
                    prop_assert!(p.start_bytes + p.size_bytes <= (last_usable_lba + 1) * 512);
                    let recorded = planned.layout.partition.iter().find(|r| r.id == p.id);
                    prop_assert_eq!(recorded.and_then(|r| r.uuid), p.uuid);
                }
                prop_assert!((last_usable_lba + 34) * 512 <= s.size_bytes);
            }
            Step::MakeFs(s) => prop_assert!(listed(&s.dev)),
            Step::Mount(s) => prop_assert!(listed(&s.dev)),
            other => prop_assert!(false, "unexpected {other:?}"),
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// What is made at backup time: whoever has disks of his own gets a plan onto them.
    #[test]
    fn a_machine_with_identities_is_planned_onto_itself(mut own in seeds(4)) {
        for (n, seed) in (0_u8..).zip(&mut own) {
            (seed.serial, seed.table) = (Some(n), Some(n));
        }
        let layout = machine(&own, "sd");
        let planned = plan(&layout, &layout, &Answers::default()).unwrap();
        prop_assert!(planned.disks.iter().all(|m| m.old.id == m.new.id));
        prop_assert!(planned.identity_changes().is_empty());
        let ids: Vec<&Id> = planned.layout.disk.iter().map(|d| &d.id).collect();
        prop_assert_eq!(ids, layout.disk.iter().map(|d| &d.id).collect::<Vec<_>>());
    }
}
