//! Tables on loop devices, compared with what sfdisk says. As root only.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;

use serde_json::Value;

use super::table::{self, TableFound};
use crate::layout::{Partition, PartitionKind, Table};
use crate::sys::run::Cmd;

/// A loop device on a sparse file; both go when this is dropped.
struct Loop {
    device: String,
    _file: tempfile::NamedTempFile,
}

impl Loop {
    /// None, with the reason said, where this machine lets nobody make one.
    fn new(size_bytes: u64, sector_bytes: u32) -> Option<Loop> {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(size_bytes).unwrap();
        let mut command = Cmd::new("losetup").args(["--find", "--show", "--sector-size"]);
        command = command.arg(sector_bytes.to_string()).arg(file.path());
        match command.text() {
            Ok(device) => Some(Loop { device: device.trim().to_owned(), _file: file }),
            Err(error) => {
                eprintln!("skipped: no loop devices here: {error:#}");
                None
            }
        }
    }

    fn sfdisk(&self, script: &str) {
        Cmd::new("sfdisk")
            .args(["--quiet", "--no-reread", "--no-tell-kernel", &self.device])
            .stdin(script)
            .run()
            .unwrap();
    }

    fn name(&self) -> &str {
        self.device.trim_start_matches("/dev/")
    }

    fn read(&self, pttype: &str, sector_bytes: u32) -> TableFound {
        let mut file = File::open(&self.device).unwrap();
        table::read(&mut file, pttype, self.name(), sector_bytes).unwrap()
    }

    fn as_sfdisk_sees_it(&self) -> Value {
        let json: Value = Cmd::new("sfdisk").args(["--json", &self.device]).json().unwrap();
        json["partitiontable"].clone()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Cmd::new("losetup").args(["--detach", &self.device]).run();
    }
}

/// Every partition that sfdisk knows, and no other, at the same place with the same type.
fn agree(found: &TableFound, sfdisk: &Value, sector_bytes: u64) {
    let ours: BTreeMap<String, &Partition> =
        found.partitions.iter().map(|p| (p.dev(), p)).collect();
    let theirs = sfdisk["partitions"].as_array().unwrap();
    assert_eq!(ours.len(), theirs.len(), "{ours:#?}\n{theirs:#?}");
    for their in theirs {
        let our = ours[their["node"].as_str().unwrap()];
        assert_eq!(our.start_bytes, their["start"].as_u64().unwrap() * sector_bytes);
        if our.kind != PartitionKind::Extended {
            assert_eq!(our.size_bytes, their["size"].as_u64().unwrap() * sector_bytes);
        }
        let kind = their["type"].as_str().unwrap().to_lowercase();
        assert!(
            our.type_code.trim_start_matches("0x").trim_start_matches('0') == kind
                || our.type_code == kind
        );
        assert_eq!(our.label, their["name"].as_str().unwrap_or_default());
        let uuid = their["uuid"].as_str().map(|uuid| uuid.parse().unwrap());
        assert_eq!(our.uuid, uuid);
        assert_eq!(our.active, their["bootable"].as_bool().unwrap_or_default());
    }
}

const GPT: &str = "label: gpt\n\
    label-id: 0FC63DAF-8483-4772-8E79-3D69D8477DE4\n\
    1: size=1MiB, type=21686148-6449-6E6F-744E-656564454649\n\
    3: size=8MiB, type=U, name=\"EFI System ü ß\", uuid=11111111-2222-3333-4444-555555555555\n\
    14: size=4MiB, type=L, name=\"two  words\", attrs=\"RequiredPartition LegacyBIOSBootable GUID:59,63\"\n\
    128: size=2MiB, type=V\n";

#[test]
fn loop_gpt_is_read_as_sfdisk_reads_it() {
    for sector_bytes in [512, 4096] {
        let Some(disk) = Loop::new(64 << 20, sector_bytes) else { return };
        disk.sfdisk(GPT);
        let found = disk.read("gpt", sector_bytes);
        let theirs = disk.as_sfdisk_sees_it();
        agree(&found, &theirs, u64::from(sector_bytes));
        let numbers: Vec<u32> = found.partitions.iter().map(|p| p.number).collect();
        assert_eq!(numbers, [1, 3, 14, 128], "gaps stay");
        assert_eq!(found.partitions[2].attributes, 0b101 | 1 << 59 | 1 << 63);
        let Table::Gpt { guid, entries, first_usable_lba, last_usable_lba, hybrid: None } =
            found.table
        else {
            panic!("{:?}", found.table)
        };
        assert_eq!(guid.to_string(), "0fc63daf-8483-4772-8e79-3d69d8477de4");
        assert_eq!(entries, 128);
        assert_eq!(first_usable_lba, theirs["firstlba"].as_u64().unwrap());
        assert_eq!(last_usable_lba, theirs["lastlba"].as_u64().unwrap());
        assert!(found.notes.is_empty());
    }
}

#[test]
fn loop_gpt_is_read_from_its_backup_where_the_primary_is_lost() {
    let Some(disk) = Loop::new(64 << 20, 512) else { return };
    disk.sfdisk(GPT);
    let whole = disk.read("gpt", 512);
    let mut file = File::options().write(true).open(&disk.device).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0; 512], 512).unwrap();
    file.flush().unwrap();
    assert_eq!(disk.read("gpt", 512), whole);
}

#[test]
fn loop_mbr_is_read_as_sfdisk_reads_it() {
    let Some(disk) = Loop::new(64 << 20, 512) else { return };
    disk.sfdisk(
        "label: dos\nlabel-id: 0xdeadbeef\n\
         1: size=8MiB, type=83, bootable\n3: size=4MiB, type=c\n4: type=f\n\
         5: size=4MiB, type=83\n6: size=8MiB, type=82\n7: size=2MiB, type=8e\n",
    );
    let found = disk.read("dos", 512);
    agree(&found, &disk.as_sfdisk_sees_it(), 512);
    assert_eq!(found.table, Table::Mbr { signature: 0xdead_beef });
    let extended = found.partitions.iter().find(|p| p.kind == PartitionKind::Extended).unwrap();
    let logical: Vec<&Partition> =
        found.partitions.iter().filter(|p| p.kind == PartitionKind::Logical).collect();
    assert_eq!(logical.len(), 3);
    assert_eq!(logical[0].ebr_bytes, Some(extended.start_bytes));
    for p in logical {
        let ebr = p.ebr_bytes.unwrap();
        assert!((extended.start_bytes..p.start_bytes).contains(&ebr), "{p:?}");
    }
}

/// Logical partitions beyond 4 GiB and beyond 1 TiB: products of 32 bit numbers would wrap.
#[test]
fn loop_logical_partitions_lie_where_32_bits_do_not_reach() {
    let Some(disk) = Loop::new(1100 << 30, 512) else { return };
    disk.sfdisk(
        "label: dos\n1: size=5GiB, type=83\n4: type=5\n5: size=1040GiB, type=83\n6: size=1GiB, type=83\n7: type=83\n",
    );
    let found = disk.read("dos", 512);
    agree(&found, &disk.as_sfdisk_sees_it(), 512);
    assert!(found.partitions.last().unwrap().ebr_bytes.unwrap() > 1 << 40);
}

#[test]
fn loop_an_empty_extended_partition_has_no_logical_ones() {
    let Some(disk) = Loop::new(64 << 20, 512) else { return };
    disk.sfdisk("label: dos\n1: size=8MiB, type=83\n2: type=5\n");
    let found = disk.read("dos", 512);
    assert_eq!(found.partitions.len(), 2);
    // Without even an EBR.
    let file = File::options().write(true).open(&disk.device).unwrap();
    let at = found.partitions[1].start_bytes;
    std::os::unix::fs::FileExt::write_all_at(&file, &[0; 512], at).unwrap();
    assert_eq!(disk.read("dos", 512).partitions, found.partitions);
}

/// To the kernel (block/partitions/msdos.c), unlike to sfdisk.
#[test]
fn loop_an_entry_of_no_sectors_is_no_partition() {
    let Some(disk) = Loop::new(64 << 20, 512) else { return };
    disk.sfdisk("label: dos\n1: size=8MiB, type=83\n");
    // The type of the third entry, which is empty but for this.
    let file = File::options().write(true).open(&disk.device).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0x83], 446 + 2 * 16 + 4).unwrap();
    file.sync_all().unwrap();
    let found = disk.read("dos", 512);
    assert_eq!(found.partitions.len(), 1, "{found:?}");
}

#[test]
fn damaged_tables_are_errors_and_no_panics() {
    let read = |bytes: &[u8], pttype| {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        table::read(&mut file, pttype, "sdz", 512)
    };
    let mut disk = vec![0; 1 << 16];
    assert!(read(&disk, "gpt").is_err());
    assert!(read(&disk, "dos").is_err());
    assert!(read(&disk, "sun").unwrap_err().to_string().contains("sun"));
    // An extended partition whose EBR points to itself for ever.
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk[446 + 4] = 5;
    disk[446 + 8] = 8;
    disk[446 + 12] = 100;
    let ebr = 8 * 512;
    disk[ebr + 510..ebr + 512].copy_from_slice(&[0x55, 0xaa]);
    disk[ebr + 462 + 4] = 5;
    disk[ebr + 462 + 12] = 1;
    let error = format!("{:#}", read(&disk, "dos").unwrap_err());
    assert!(error.contains("does not end"), "{error}");
    // One that points far beyond the disk.
    disk[ebr + 462 + 8..ebr + 462 + 12].copy_from_slice(&[0xff; 4]);
    assert!(read(&disk, "dos").is_err());
    // GPT entries of another size.
    disk[512..520].copy_from_slice(b"EFI PART");
    disk[512 + 84..512 + 88].copy_from_slice(&256_u32.to_le_bytes());
    let error = format!("{:#}", read(&disk, "gpt").unwrap_err());
    assert!(error.contains("256"), "{error}");
}

#[test]
fn partitions_are_named_as_the_kernel_names_them() {
    for (disk, name) in [
        ("sda", "sda3"),
        ("nvme0n1", "nvme0n1p3"),
        ("md0", "md0p3"),
        ("cciss/c0d0", "cciss/c0d0p3"),
    ] {
        assert_eq!(crate::layout::partition_name(disk, 3), name);
    }
}
