//! Layouts for tests.

use uuid::Uuid;

use crate::layout::{
    Disk, Fs, Id, Layout, Lv, LvSegment, Md, MdMember, Mount, Node, Partition, PartitionKind, Pv,
    Swap, Table, Vg, partition_name,
};

pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;
pub const LINUX: &str = "0fc63daf-8483-4772-8e79-3d69d8477de4";

pub fn empty() -> Layout {
    Layout::of(Node::default())
}

/// A blank disk with nothing that tells it from another.
pub fn disk(name: &str, size_bytes: u64) -> Disk {
    Disk {
        id: Id::disk(name),
        name: name.into(),
        size_bytes,
        sector_bytes: 512,
        physical_sector_bytes: 512,
        wwn: None,
        serial: None,
        path: None,
        model: None,
        rotational: false,
        removable: false,
        read_only: false,
        table: None,
        signatures: Vec::new(),
        unused: false,
    }
}

pub fn gpt(disk: &mut Disk, n: u8) {
    disk.table = Some(Table::Gpt {
        guid: Uuid::from_bytes([n; 16]),
        entries: 128,
        first_usable_lba: 34,
        last_usable_lba: disk.size_bytes / 512 - 34,
        hybrid: None,
    });
    disk.signatures = vec!["gpt".into()];
}

pub fn partition(disk: &str, number: u32, start_bytes: u64, size_bytes: u64) -> Partition {
    let name = partition_name(disk, number);
    let mut uuid = [0x77; 16];
    uuid[..4].copy_from_slice(&number.to_be_bytes());
    uuid[15] = disk.bytes().fold(0, u8::wrapping_add);
    Partition {
        id: Id::partition(&name),
        disk: Id::disk(disk),
        number,
        name,
        kind: PartitionKind::Gpt,
        start_bytes,
        size_bytes,
        type_code: LINUX.into(),
        uuid: Some(Uuid::from_bytes(uuid)),
        label: String::new(),
        attributes: 0,
        active: false,
        ebr_bytes: None,
    }
}

pub fn fs(on: &Id, kind: &str, size_bytes: u64) -> Fs {
    let id = Id::content("fs", on);
    Fs {
        uuid: format!("{}-0000-4000-8000-000000000000", id.0),
        id,
        on: on.clone(),
        kind: kind.into(),
        label: String::new(),
        size_bytes,
        used_bytes: 0,
        ext: None,
        xfs: None,
        vfat: None,
        btrfs: None,
        f2fs: None,
    }
}

pub fn mount(path: &str, fs: &Id) -> Mount {
    Mount { path: path.into(), fs: fs.clone(), options: "rw".into(), root: None, target: false }
}

/// LVM's metadata for [`raid_node`], as far as a plan reads it.
const VG0: &str = r#"vg0 {
	id = "VGUUID-0001"
	extent_size = 8192
	physical_volumes {
		pv0 {
			id = "PVUUID-0001"
			pe_start = 2048
		}
	}
	logical_volumes {
		root {
			segment1 {
				start_extent = 0
				extent_count = 2560
				type = "striped"
				stripes = ["pv0", 0]
			}
		}
		swap {
			segment1 {
				start_extent = 0
				extent_count = 256
				type = "striped"
				stripes = ["pv0", 2560]
			}
		}
	}
}
"#;

/// Two equal disks with `/boot` on a RAID1 and a volume group on another; a third holds the backup.
pub fn raid_node() -> Layout {
    let mut layout = empty();
    for (n, name) in ["sda", "sdb"].into_iter().enumerate() {
        let mut d = disk(name, 20 * GIB);
        d.serial = Some(format!("SER{n}"));
        d.model = Some("ACME 20".into());
        d.path = Some(format!("pci-0000:00:1f.2-ata-{}", n + 1));
        gpt(&mut d, u8::try_from(n + 1).unwrap());
        layout.disk.push(d);
        layout.partition.push(partition(name, 1, MIB, MIB));
        layout.partition.push(partition(name, 2, 2 * MIB, GIB));
        layout.partition.push(partition(name, 3, 2 * MIB + GIB, 18 * GIB));
    }
    for (n, size) in [(0, GIB - 2 * MIB), (1, 18 * GIB - 2 * MIB)] {
        layout.md.push(md(
            &format!("md{n}"),
            &[&format!("sda{}", n + 2), &format!("sdb{}", n + 2)],
            size,
        ));
    }
    let vg = Id::vg("vg0");
    layout.vg.push(Vg {
        id: vg.clone(),
        name: "vg0".into(),
        uuid: "VGUUID-0001".into(),
        extent_bytes: 4 * MIB,
        tags: Vec::new(),
        pv: vec![Pv {
            on: Id::md("md1"),
            uuid: "PVUUID-0001".into(),
            size_bytes: 18 * GIB - 2 * MIB,
            pe_start_bytes: MIB,
            extents: 4606,
            tags: Vec::new(),
        }],
        metadata: VG0.into(),
    });
    for (name, extents) in [("root", 2560), ("swap", 256)] {
        layout.lv.push(Lv {
            id: Id::lv("vg0", name),
            vg: vg.clone(),
            name: name.into(),
            uuid: format!("LVUUID-{name}"),
            size_bytes: extents * 4 * MIB,
            kind: "linear".into(),
            tags: Vec::new(),
            segment: vec![LvSegment {
                kind: "linear".into(),
                extents,
                stripes: 1,
                stripe_bytes: 0,
                on: vec![format!("md:md1:0-{}", extents - 1)],
            }],
            pool: String::new(),
            origin: String::new(),
            thin_pool: None,
        });
    }
    let root = Id::lv("vg0", "root");
    layout.fs.push(fs(&root, "ext4", 10 * GIB));
    layout.fs.push(fs(&Id::md("md0"), "ext4", GIB - 2 * MIB));
    let swap = Id::lv("vg0", "swap");
    layout.swap.push(Swap {
        id: Id::content("swap", &swap),
        on: swap,
        uuid: String::new(),
        label: String::new(),
        size_bytes: GIB,
    });
    layout.mount.push(mount("/boot", &Id::content("fs", &Id::md("md0"))));
    layout.mount.push(mount("/", &Id::content("fs", &root)));
    let mut backup = disk("sdc", 40 * GIB);
    backup.serial = Some("BACKUP".into());
    backup.signatures = vec!["ext4".into()];
    layout.disk.push(backup);
    let on = Id::disk("sdc");
    layout.fs.push(fs(&on, "ext4", 40 * GIB));
    let mut target = mount("/backup", &Id::content("fs", &on));
    target.target = true;
    layout.mount.push(target);
    layout
}

fn md(name: &str, members: &[&str], size_bytes: u64) -> Md {
    Md {
        id: Id::md(name),
        name: name.into(),
        level: "raid1".into(),
        metadata: "1.2".into(),
        uuid: format!("6d4c5a1e:00000000:00000000:{name}"),
        array_name: Some(format!("node001:{name}")),
        size_bytes,
        chunk_bytes: None,
        layout: None,
        bitmap: Some("internal".into()),
        raid_devices: u32::try_from(members.len()).unwrap(),
        data_offset_bytes: Some(MIB),
        member_size_bytes: Some(size_bytes),
        member: members
            .iter()
            .zip(0..)
            .map(|(m, slot)| MdMember { on: Id::partition(m), slot: Some(slot) })
            .collect(),
        table: None,
    }
}

/// The same disks, with nothing on them.
pub fn blank(layout: &Layout) -> Layout {
    let mut blank = empty();
    blank.disk = layout.disk.clone();
    for disk in &mut blank.disk {
        disk.table = None;
        disk.signatures = Vec::new();
    }
    blank
}
