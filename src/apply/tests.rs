//! Tables written by us, read back by crates and tools that share no code with us.

use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use uuid::Uuid;

use super::table::image;
use crate::layout::{HybridEntry, HybridMbr, Id, Partition, PartitionKind, Table};
use crate::plan::hybrid;
use crate::plan::step::WriteTable;
use crate::probe;
use crate::sys::run::Cmd;

const LINUX: &str = "0fc63daf-8483-4772-8e79-3d69d8477de4";

fn partition(number: u32, kind: PartitionKind, start: u64, size: u64, sector: u64) -> Partition {
    let name = format!("sda{number}");
    Partition {
        id: Id::partition(&name),
        disk: Id::disk("sda"),
        number,
        name,
        kind,
        start_bytes: start * sector,
        size_bytes: size * sector,
        type_code: if kind == PartitionKind::Gpt { LINUX.into() } else { "0x83".into() },
        uuid: (kind == PartitionKind::Gpt).then(|| Uuid::from_u128(u128::from(number) << 64 | 7)),
        label: String::new(),
        attributes: 0,
        active: false,
        ebr_bytes: None,
    }
}

/// The table on a sparse file of that size.
/// sfdisk puts a `p` before a partition's number where the name ends in a digit: these never do.
fn disk_file() -> tempfile::NamedTempFile {
    tempfile::Builder::new().suffix(".disk").tempfile().unwrap()
}

fn written(step: &WriteTable) -> tempfile::NamedTempFile {
    let mut file = disk_file();
    file.as_file().set_len(step.size_bytes).unwrap();
    for (at, bytes) in image(step, step.size_bytes).unwrap() {
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(&bytes).unwrap();
    }
    file.flush().unwrap();
    file
}

fn gpt_table(sector: u32, sectors: u64) -> WriteTable {
    let gpt = PartitionKind::Gpt;
    let s = u64::from(sector);
    let mut partitions = vec![
        partition(1, gpt, 2048, 10_000, s),
        partition(14, gpt, 100, 1900, s),
        partition(15, gpt, 20_000, 1, s),
    ];
    partitions[1].label = "Wurzel \u{2603} \u{1f980}".into();
    partitions[1].attributes = 1 << 63 | 1 << 2;
    WriteTable {
        name: "sda".into(),
        size_bytes: sectors * s,
        sector_bytes: sector,
        table: Table::Gpt {
            guid: Uuid::from_u128(0x1111_2222_3333_4444_5555),
            entries: 128,
            first_usable_lba: 34,
            last_usable_lba: sectors - 34,
            hybrid: None,
        },
        partitions,
        bios_boots: false,
    }
}

#[test]
fn a_gpt_is_read_back_with_its_slots() {
    for (sector, size) in
        [(512, gpt::disk::LogicalBlockSize::Lb512), (4096, gpt::disk::LogicalBlockSize::Lb4096)]
    {
        let step = gpt_table(sector, 60_000);
        let file = written(&step);
        let disk = gpt::GptConfig::new()
            .writable(false)
            .logical_block_size(size)
            .open(file.path())
            .unwrap();
        assert_eq!(disk.guid(), &Uuid::from_u128(0x1111_2222_3333_4444_5555));
        let backup = disk.backup_header().unwrap();
        assert_eq!((backup.current_lba, backup.last_usable), (59_999, 59_966));
        let found: Vec<_> = disk.partitions().iter().collect();
        assert_eq!(found.len(), 3);
        for (wanted, (number, found)) in step.partitions.iter().zip(found) {
            assert_eq!(wanted.number, *number);
            assert_eq!(Some(found.part_guid), wanted.uuid);
            assert_eq!(found.first_lba, wanted.start_bytes / u64::from(sector));
            assert_eq!(found.sectors_len().unwrap(), wanted.size_bytes / u64::from(sector));
            assert_eq!(found.flags, wanted.attributes);
            if number != &14 {
                // The crate reads UCS-2 only: the crab is not in it.
                assert_eq!(found.name, wanted.label);
            }
        }
    }
}

#[test]
fn a_hybrid_mbr_is_read_back_and_goes_with_its_partitions() {
    let entry = |slot, kind: &str, partition, start: u64, sectors: u64| HybridEntry {
        slot,
        type_code: kind.into(),
        active: slot == 2,
        partition,
        start_bytes: start * 512,
        size_bytes: sectors * 512,
    };
    let mbr = HybridMbr {
        signature: 0xcafe_1234,
        entry: vec![
            entry(1, "0xee", None, 1, 2047),
            entry(2, "0x83", Some(1), 2048, 10_000),
            entry(4, "0xee", None, 12_048, 7952),
        ],
    };
    let mut step = gpt_table(512, 60_000);
    let Table::Gpt { hybrid, .. } = &mut step.table else { unreachable!() };
    *hybrid = Some(Box::new(mbr));
    let read = |step: &WriteTable| {
        let file = written(step);
        let found = probe::table::read(&mut file.reopen().unwrap(), "gpt", "sda", 512).unwrap();
        found.table
    };
    assert_eq!(read(&step), step.table);
    // On a smaller disk what protects the start ends before the partition that is shown.
    step.partitions[0].start_bytes = 1024 * 512;
    let Table::Gpt { hybrid: Some(moved), .. } = read(&step) else { panic!("no hybrid MBR") };
    let places: Vec<_> =
        moved.entry.iter().map(|e| (e.slot, e.start_bytes / 512, e.size_bytes / 512)).collect();
    assert_eq!(places, [(1, 1, 1023), (2, 1024, 10_000), (4, 12_048, 7952)]);
    assert_eq!(moved.entry[1].partition, Some(1));
    // What protects the end goes no further than the disk.
    step.size_bytes = 15_000 * 512;
    let cut = hybrid::entries(&step).unwrap();
    assert_eq!(cut[2].size_bytes / 512, 15_000 - 12_048);
    // One without sectors is none, neither on the disk nor in an older record.
    let Table::Gpt { hybrid: Some(mbr), .. } = &mut step.table else { unreachable!() };
    mbr.entry.push(entry(3, "0x83", None, 0, 0));
    assert_eq!(hybrid::entries(&step).unwrap(), cut);
    assert!(crate::apply::mbr::raw_entry(false, 0x83, 0, 0, 0, 512).is_err());
    let step = gpt_table(512, 60_000);
    let mut file = written(&step).reopen().unwrap();
    let mut bytes = [0; 16];
    bytes[4] = 0x83;
    file.write_all_at(&bytes, 446 + 32).unwrap();
    let found = probe::table::read(&mut file, "gpt", "sda", 512).unwrap();
    assert_eq!(found.table, step.table);
}

#[test]
fn the_protective_mbr_is_active_where_a_bios_boots_from_it() {
    for (bios_boots, flag) in [(true, 0x80), (false, 0)] {
        let file = written(&WriteTable { bios_boots, ..gpt_table(512, 60_000) });
        let bytes = std::fs::read(file.path()).unwrap();
        assert_eq!((bytes[446], bytes[450]), (flag, 0xee));
    }
    use crate::plan::{self, Step, testing::raid_node};
    let active = |node: &crate::layout::Layout| {
        let plan = plan::plan(node, node, &plan::Answers::default()).unwrap();
        let tables = plan.steps.into_iter().filter_map(|step| match step {
            Step::WriteTable(step) => Some(step.bios_boots),
            _ => None,
        });
        tables.collect::<Vec<_>>()
    };
    let mut node = raid_node();
    node.boot.grub_disk = vec![node.disk[1].id.clone()];
    assert_eq!(active(&node), [false, true]);
    node.boot.firmware = crate::layout::Firmware::Uefi;
    assert_eq!(active(&node), [false, false]);
}

#[test]
fn sfdisk_reads_what_its_script_would_write() {
    let mut tables = vec![gpt_table(512, 60_000), mbr_table()];
    tables[0].partitions[1].label = r#"with "quotes" and \ "#.into();
    for step in tables {
        let dump = |file: &tempfile::NamedTempFile| {
            let text = Cmd::new("sfdisk").arg("--dump").arg(file.path()).text().unwrap();
            text.replace(file.path().to_str().unwrap(), "/dev/sda")
        };
        let ours = written(&step);
        Cmd::new("sfdisk").arg("--verify").arg(ours.path()).run().unwrap();
        let theirs = disk_file();
        theirs.as_file().set_len(step.size_bytes).unwrap();
        let script = crate::plan::render::sfdisk(&step);
        let args = ["--quiet", "--no-reread"];
        Cmd::new("sfdisk").args(args).arg(theirs.path()).stdin(script).run().unwrap();
        assert_eq!(dump(&ours), dump(&theirs));
    }
}

/// With the extended partition beyond 4 GiB, where 32 bits of bytes end.
fn mbr_table() -> WriteTable {
    use PartitionKind::{Extended, Logical, Primary};
    let mut partitions = vec![
        partition(1, Primary, 2048, 10_000, 512),
        partition(2, Extended, 10_000_000, 1_000_000, 512),
        partition(4, Primary, 11_000_000, 2048, 512),
        partition(5, Logical, 10_002_048, 100_000, 512),
        partition(6, Logical, 10_200_000, 100_000, 512),
        partition(7, Logical, 10_500_000, 1, 512),
    ];
    partitions[0].active = true;
    partitions[1].type_code = "0x5".into();
    for (index, ebr) in [(3, 10_000_000), (4, 10_197_952), (5, 10_497_952)] {
        partitions[index].ebr_bytes = Some(ebr * 512);
    }
    WriteTable {
        name: "sda".into(),
        size_bytes: 12_000_000 * 512,
        sector_bytes: 512,
        table: Table::Mbr { signature: 0xdead_beef },
        partitions,
        bios_boots: false,
    }
}

#[test]
fn an_mbr_is_read_back_with_its_logical_partitions() {
    let step = mbr_table();
    let mut file = written(&step);
    let mbr = mbrman::MBR::read_from(file.as_file_mut(), 512).unwrap();
    assert_eq!(mbr.header.disk_signature, 0xdead_beef_u32.to_le_bytes());
    for wanted in &step.partitions {
        let found = mbr.get(usize::try_from(wanted.number).unwrap()).unwrap();
        assert_eq!(u64::from(found.starting_lba) * 512, wanted.start_bytes, "{}", wanted.name);
        assert_eq!(u64::from(found.sectors) * 512, wanted.size_bytes, "{}", wanted.name);
        assert_eq!(found.is_active(), wanted.active);
    }
    let ebrs: Vec<_> = mbr.logical_partitions.iter().map(|l| l.absolute_ebr_lba).collect();
    assert_eq!(ebrs, [10_000_000, 10_197_952, 10_497_952]);
}

#[test]
fn what_a_table_cannot_hold_is_an_error() {
    let mut step = gpt_table(512, 60_000);
    step.size_bytes = 59_000 * 512;
    assert!(image(&step, step.size_bytes).unwrap_err().to_string().contains("does not fit"));
    let mut step = mbr_table();
    step.partitions[2].start_bytes = 1 << 42;
    assert!(image(&step, step.size_bytes).is_err());
}
