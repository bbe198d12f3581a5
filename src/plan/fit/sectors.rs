//! A layout for disks whose sectors have another size than the recorded ones had: 4096 bytes and not
//! 512, most of the time.
//!
//! Nothing that is smaller than a sector can be addressed: partitions begin and end at whole
//! sectors, filesystems with smaller blocks get larger ones. What can't be made with such sectors,
//! or can't be started from, is refused by name.

use super::{ALIGNMENT_BYTES, scale};
use crate::layout::{Firmware, Fs, Id, Layout, Md, Partition, PartitionKind, Table};
use crate::plan::map::{DiskMatch, gpt_tail_bytes};
use crate::plan::validate::device_bytes;
use crate::plan::{Problem, hybrid};

const HINT: &str = "use a disk with the recorded size of sectors, chosen with --map OLD=NEW";
/// mkfs.fat(8): what a FAT with so many bits must have at least, in clusters.
const FAT32_CLUSTERS: u64 = 65525;
const FAT16_CLUSTERS: u64 = 4085;
/// mke2fs(8): a journal has so many blocks at least.
const JOURNAL_BLOCKS: u64 = 1024;
/// mkfs.xfs(8): a log of so many bytes is large enough for everything.
const LOG_BYTES: u64 = 64 << 20;

/// The layout for the sectors of `disks`, the recorded disks as they would be with these, and what is
/// another one now, in words. All as it was where the sectors are.
pub fn convert(
    scope: &Layout,
    disks: &[DiskMatch],
    problems: &mut Vec<Problem>,
) -> (Layout, Vec<DiskMatch>, Vec<String>) {
    let mut layout = scope.clone();
    let mut disks = disks.to_vec();
    let mut notes = Vec::new();
    for found in disks.iter_mut().filter(|d| d.new.sector_bytes != d.old.sector_bytes) {
        let (new, old) = (&found.new, &mut found.old);
        notes.push(format!(
            "{} has sectors of {} bytes, {} had {}.",
            new.name, new.sector_bytes, old.name, old.sector_bytes
        ));
        let starts = layout.boot.grub_disk.contains(&old.id);
        if starts && layout.boot.firmware == Firmware::Bios && new.sector_bytes > 512 {
            problems.push(Problem::new(
                format!(
                    "a BIOS can't start {}: its sectors have {} bytes",
                    new.name, new.sector_bytes
                ),
                HINT,
            ));
        }
        old.sector_bytes = new.sector_bytes;
        for disk in layout.disk.iter_mut().filter(|d| d.id == old.id) {
            disk.sector_bytes = new.sector_bytes;
        }
    }
    if !notes.is_empty() {
        let mut converter =
            Converter { was: scope, layout: &mut layout, problems, notes: &mut notes };
        converter.tables();
        converter.stacks();
        converter.filesystems();
    }
    (layout, disks, notes)
}

struct Converter<'a> {
    was: &'a Layout,
    layout: &'a mut Layout,
    problems: &'a mut Vec<Problem>,
    notes: &'a mut Vec<String>,
}

impl Converter<'_> {
    fn refuse(&mut self, what: String) {
        self.problems.push(Problem::new(what, HINT));
    }

    /// The size of sectors below `id`, where it is another one now.
    fn changed(&self, id: &Id) -> Option<u64> {
        let now = sector_bytes(self.layout, id);
        (now != sector_bytes(self.was, id)).then_some(now)
    }

    fn tables(&mut self) {
        let disks = self.was.disk.iter().map(|d| (&d.id, &d.name, d.table.as_ref()));
        let arrays = self.was.md.iter().map(|m| (&m.id, &m.name, m.table.as_ref()));
        for (id, name, table) in disks.chain(arrays) {
            let (Some(sector), Some(table)) = (self.changed(id), table) else { continue };
            if hybrid::of(table).is_some() {
                self.refuse(format!("the hybrid MBR of {name} is made for other sectors"));
            }
            let table = table_for(table, sector, sector_bytes(self.was, id));
            let first = match &table {
                Table::Gpt { first_usable_lba, .. } => first_usable_lba.saturating_mul(sector),
                Table::Mbr { .. } => sector,
            };
            if let Err(why) = self.realign(id, sector, first) {
                self.refuse(format!(
                    "the partitions of {name} can't be made with sectors of {sector} bytes: {why}"
                ));
            }
            for disk in self.layout.disk.iter_mut().filter(|d| d.id == *id) {
                disk.table = Some(table.clone());
            }
            for md in self.layout.md.iter_mut().filter(|m| m.id == *id) {
                md.table = Some(table.clone());
            }
        }
    }

    /// Moves the partitions to whole sectors, each behind the one before it.
    fn realign(&mut self, on: &Id, sector: u64, first: u64) -> Result<(), &'static str> {
        let was = self.was;
        let empty = |p: &Partition| !stands_on_it(was, &p.id);
        let mut parts: Vec<_> =
            self.layout.partition.iter_mut().filter(|p| p.disk == *on).collect();
        parts.sort_by_key(|p| p.start_bytes);
        let whole = |bytes: u64| bytes.is_multiple_of(sector);
        let aligned = |p: &&mut Partition| {
            whole(p.start_bytes) && whole(p.size_bytes) && whole(p.ebr_bytes.unwrap_or(0))
        };
        if parts.iter().all(aligned) && parts.first().is_none_or(|p| p.start_bytes >= first) {
            return Ok(());
        }
        if parts.iter().any(|p| p.kind == PartitionKind::Extended) {
            return Err("logical ones do not lie on such");
        }
        let mut free = first;
        for part in parts {
            let end = part.start_bytes.saturating_add(part.size_bytes);
            let unit =
                if part.start_bytes % ALIGNMENT_BYTES == 0 { ALIGNMENT_BYTES } else { sector };
            let start = part.start_bytes.max(free).next_multiple_of(unit);
            // What nothing stands on can give the rest of a sector away, and need not move others.
            let size_bytes = match (end - end % sector).saturating_sub(start) {
                less if less > 0 && empty(part) => less,
                _ => part.size_bytes.next_multiple_of(sector),
            };
            (part.start_bytes, part.size_bytes) = (start, size_bytes);
            free = start.saturating_add(size_bytes);
        }
        Ok(())
    }

    /// Arrays, LUKS and volume groups hold their data at places and in units of their own.
    fn stacks(&mut self) {
        let mut wrong = Vec::new();
        for md in &self.was.md {
            let Some(sector) = self.changed(&md.id) else { continue };
            let places = [md.data_offset_bytes, md.member_size_bytes, md.chunk_bytes];
            if places.into_iter().flatten().any(|bytes| bytes % sector != 0) {
                wrong.push(format!(
                    "the array {} can't be made with sectors of {sector} bytes",
                    md.name
                ));
            }
        }
        for luks in &self.was.luks {
            let Some(sector) = self.changed(&luks.id) else { continue };
            if luks.data_offset_bytes % sector != 0 {
                wrong.push(format!(
                    "LUKS {} can't be made with sectors of {sector} bytes",
                    luks.name
                ));
            }
        }
        for vg in &self.was.vg {
            let Some(sector) = self.changed(&vg.id) else { continue };
            let places = vg.pv.iter().map(|pv| pv.pe_start_bytes).chain([vg.extent_bytes]);
            if places.into_iter().any(|bytes| bytes % sector != 0) {
                wrong.push(format!(
                    "the group {} can't be made with sectors of {sector} bytes",
                    vg.name
                ));
            }
            if vg.pv.iter().any(|pv| sector_bytes(self.layout, &pv.on) != sector) {
                wrong.push(format!(
                    "LVM makes no group like {} of disks with different sectors",
                    vg.name
                ));
            }
        }
        wrong.into_iter().for_each(|what| self.refuse(what));
    }

    fn filesystems(&mut self) {
        let mut all = std::mem::take(&mut self.layout.fs);
        for fs in &mut all {
            let Some(sector) = self.changed(&fs.on) else { continue };
            let room = device_bytes(self.was, &fs.on).unwrap_or(fs.size_bytes).max(fs.size_bytes);
            let was = fs.clone();
            let made = make_anew(fs, sector, room);
            let dev = self.was.dev(&fs.on).unwrap_or_default();
            match made {
                Ok(Some(how)) => self.notes.push(format!("{} on {dev} gets {how}.", fs.kind)),
                Ok(None) => {}
                Err(why) => {
                    *fs = was;
                    self.refuse(format!(
                        "{} on {dev} can't be made with sectors of {sector} bytes: {why}",
                        fs.kind
                    ));
                }
            }
        }
        self.layout.fs = all;
    }
}

/// The largest sectors of the disks at the bottom of `id`: what stands on several has these.
fn sector_bytes(layout: &Layout, id: &Id) -> u64 {
    let on = layout.disks_on(id);
    on.into_iter().map(|d| u64::from(d.sector_bytes)).max().unwrap_or(512)
}

fn stands_on_it(layout: &Layout, id: &Id) -> bool {
    let member = |md: &Md| md.member.iter().any(|m| m.on == *id);
    layout.fs.iter().any(|fs| fs.devices().contains(id))
        || layout.swap.iter().any(|s| s.on == *id)
        || layout.luks.iter().any(|l| l.on == *id)
        || layout.vg.iter().flat_map(|v| &v.pv).any(|pv| pv.on == *id)
        || layout.md.iter().any(member)
}

/// With the same room at the start, as far as the entries leave it, and all of the disk's end.
fn table_for(table: &Table, sector: u64, was: u64) -> Table {
    match table {
        Table::Gpt { guid, entries, first_usable_lba, hybrid, .. } => {
            let least = gpt_tail_bytes(*entries, u32::try_from(sector).unwrap_or(512)) / sector + 1;
            let first = first_usable_lba.saturating_mul(was).div_ceil(sector).max(least);
            Table::Gpt {
                guid: *guid,
                entries: *entries,
                first_usable_lba: first,
                last_usable_lba: u64::MAX,
                hybrid: hybrid.clone(),
            }
        }
        mbr @ Table::Mbr { .. } => mbr.clone(),
    }
}

/// Says in words what the filesystem gets instead of what it had.
fn make_anew(fs: &mut Fs, sector: u64, room: u64) -> Result<Option<String>, String> {
    if fs.ext.as_ref().is_some_and(|ext| ext.block_bytes < sector) {
        holds_its_files(fs, fs.ext.as_ref().map_or(0, |ext| ext.block_bytes), sector, room)?;
        return Ok(Some(larger_ext(fs, sector)));
    }
    if fs.xfs.as_ref().is_some_and(|xfs| xfs.sector_bytes < sector) {
        let block_bytes = fs.xfs.as_ref().map_or(0, |xfs| xfs.block_bytes);
        if block_bytes < sector {
            holds_its_files(fs, block_bytes, sector, room)?;
        }
        return Ok(Some(larger_xfs(fs, sector)));
    }
    if fs.vfat.as_ref().is_some_and(|vfat| vfat.sector_bytes != sector) {
        let cluster_bytes = fs.vfat.as_ref().map_or(0, |vfat| vfat.cluster_bytes);
        if cluster_bytes < sector {
            holds_its_files(fs, cluster_bytes, sector, room)?;
        }
        return Ok(other_vfat(fs, sector));
    }
    Ok(None)
}

/// A file of one byte takes a whole block. How many files there are is not known, but each has a block
/// at least, and an inode.
fn holds_its_files(fs: &Fs, before: u64, now: u64, room: u64) -> Result<(), String> {
    let all_small = scale(fs.used_bytes, now, before);
    let each_inode = fs.ext.as_ref().map_or(u64::MAX, |ext| {
        fs.used_bytes.saturating_add(ext.inodes.saturating_mul(now - before))
    });
    let metadata = fs.ext.as_ref().map_or(0, |ext| {
        ext.inodes.saturating_mul(ext.inode_bytes).saturating_add(ext.journal_bytes.unwrap_or(0))
    });
    let needs = all_small.min(each_inode).saturating_add(metadata).saturating_add(room / 64);
    if needs <= room {
        return Ok(());
    }
    Err(format!(
        "its blocks of {before} bytes would become blocks of {now}, in which {} bytes of files may not \
         fit on {room}",
        fs.used_bytes
    ))
}

fn larger_ext(fs: &mut Fs, block_bytes: u64) -> String {
    let Some(ext) = &mut fs.ext else { return String::new() };
    let before = ext.block_bytes;
    let in_new = |blocks: u64| scale(blocks, before, block_bytes);
    ext.blocks = fs.size_bytes / block_bytes;
    ext.reserved_blocks = in_new(ext.reserved_blocks);
    ext.stride = ext.stride.map(|blocks| in_new(blocks).max(1));
    ext.stripe_width = ext.stripe_width.map(|blocks| in_new(blocks).max(1));
    // Else as mke2fs chooses it.
    ext.journal_bytes = ext.journal_bytes.filter(|b| *b >= JOURNAL_BLOCKS * block_bytes);
    // A bitmap is a block, with a bit for each inode of a group, and one for each block of it.
    let groups = ext.blocks.div_ceil(block_bytes * 8);
    ext.inodes = ext.inodes.min(groups.saturating_mul(block_bytes * 8));
    ext.cluster_bytes = ext.cluster_bytes.filter(|bytes| *bytes > block_bytes);
    ext.block_bytes = block_bytes;
    fs.size_bytes = ext.blocks * block_bytes;
    format!("blocks of {block_bytes} bytes instead of {before}")
}

fn larger_xfs(fs: &mut Fs, sector: u64) -> String {
    let Some(xfs) = &mut fs.xfs else { return String::new() };
    let (before, sectors) = (xfs.block_bytes, xfs.sector_bytes);
    xfs.sector_bytes = sector;
    // The smallest log that there may be is a larger one then: as mkfs.xfs chooses it.
    if xfs.log_blocks.saturating_mul(before) < LOG_BYTES {
        xfs.log_blocks = 0;
    }
    if before >= sector {
        return format!("sectors of {sector} bytes instead of {sectors}");
    }
    let in_new = |blocks: u64| scale(blocks, before, sector);
    xfs.block_bytes = sector;
    xfs.blocks = fs.size_bytes / sector;
    xfs.ag_blocks = None;
    (xfs.sunit_blocks, xfs.swidth_blocks) = (in_new(xfs.sunit_blocks), in_new(xfs.swidth_blocks));
    xfs.log_blocks = in_new(xfs.log_blocks);
    xfs.dir_block_bytes = xfs.dir_block_bytes.max(sector);
    fs.size_bytes = xfs.blocks * sector;
    format!("blocks of {sector} bytes instead of {before}")
}

fn other_vfat(fs: &mut Fs, sector: u64) -> Option<String> {
    let vfat = fs.vfat.as_mut()?;
    let (bits, sectors) = (vfat.fat_bits, vfat.sector_bytes);
    vfat.sector_bytes = sector;
    if vfat.cluster_bytes < sector {
        vfat.cluster_bytes = sector;
        // By the number of clusters a reader tells how many bits each entry has.
        vfat.fat_bits = match fs.size_bytes / sector {
            FAT32_CLUSTERS.. => 32,
            FAT16_CLUSTERS.. => 16,
            _ => 12,
        };
    }
    if vfat.fat_bits != bits || vfat.fat_bits != 32 {
        vfat.reserved_sectors = if vfat.fat_bits == 32 { 32 } else { 1 };
    }
    let as_fat =
        if vfat.fat_bits == bits { String::new() } else { format!(", as FAT{}", vfat.fat_bits) };
    Some(format!("sectors of {sector} bytes instead of {sectors}{as_fat}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{ExtOptions, VfatOptions, XfsOptions};
    use crate::plan::testing::{
        GIB, MIB, blank, disk, empty, fs, gpt, mount, partition, raid_node,
    };
    use crate::plan::{Answers, Plan, Refusal, plan};

    fn auto() -> Answers {
        Answers { auto: true, ..Answers::default() }
    }

    fn on_sectors_of(recorded: &Layout, bytes: u32) -> Result<Plan, Refusal> {
        let mut present = blank(recorded);
        present.disk.iter_mut().for_each(|disk| disk.sector_bytes = bytes);
        plan(recorded, &present, &auto())
    }

    /// A disk with what old programs made: nothing but the first start lies on whole sectors.
    fn old_node() -> Layout {
        let mut layout = empty();
        let mut sda = disk("sda", 4 * GIB);
        gpt(&mut sda, 1);
        layout.disk.push(sda);
        let parts = [
            ("ext2", "/boot", 64 * MIB + 512),
            ("vfat", "/boot/efi", 300 * MIB + 1024),
            ("xfs", "/", 3 * GIB),
        ];
        let mut start = MIB;
        for ((kind, path, size), number) in parts.into_iter().zip(1..) {
            let part = partition("sda", number, start, size);
            start += size;
            let fs = fs(&part.id, kind, size);
            layout.mount.push(mount(path, &fs.id));
            layout.fs.push(fs);
            layout.partition.push(part);
        }
        layout.fs[0].ext = Some(ExtOptions {
            block_bytes: 1024,
            blocks: layout.fs[0].size_bytes / 1024,
            inode_bytes: 128,
            inodes: 4096,
            reserved_blocks: 400,
            stride: Some(2),
            journal_bytes: Some(MIB),
            ..ExtOptions::default()
        });
        layout.fs[1].vfat = Some(VfatOptions {
            fat_bits: 32,
            cluster_bytes: 512,
            sector_bytes: 512,
            reserved_sectors: 32,
            fats: 2,
            root_entries: None,
        });
        layout.fs[2].xfs = Some(XfsOptions {
            block_bytes: 4096,
            blocks: layout.fs[2].size_bytes / 4096,
            sector_bytes: 512,
            log_blocks: 16384,
            agcount: 4,
            ..XfsOptions::default()
        });
        layout
    }

    #[test]
    fn everything_lies_on_whole_sectors_and_keeps_its_order() {
        let recorded = old_node();
        let plan = on_sectors_of(&recorded, 4096).unwrap();
        let mut end = MIB;
        for (was, part) in recorded.partition.iter().zip(&plan.layout.partition) {
            assert!(part.start_bytes >= end && part.start_bytes % 4096 == 0, "{part:?}");
            assert!(part.size_bytes >= was.size_bytes && part.size_bytes < was.size_bytes + 4096);
            assert_eq!(part.size_bytes % 4096, 0);
            end = part.start_bytes + part.size_bytes;
        }
        let Some(Table::Gpt { first_usable_lba, last_usable_lba, .. }) = plan.layout.disk[0].table
        else {
            panic!("no GPT")
        };
        // 34 sectors of 512 bytes, and the second table in five of 4096.
        assert_eq!((first_usable_lba, last_usable_lba), (6, 4 * GIB / 4096 - 6));
        let [ext, vfat, xfs] = &plan.layout.fs[..] else { panic!("three filesystems") };
        let ext = ext.ext.as_ref().unwrap();
        assert_eq!((ext.block_bytes, ext.blocks, ext.reserved_blocks), (4096, 16384, 100));
        assert_eq!((ext.stride, ext.journal_bytes, ext.inodes), (Some(1), None, 4096));
        let vfat = vfat.vfat.as_ref().unwrap();
        assert_eq!((vfat.sector_bytes, vfat.cluster_bytes, vfat.fat_bits), (4096, 4096, 32));
        let (was, is) = (recorded.fs[2].xfs.as_ref().unwrap(), xfs.xfs.as_ref().unwrap());
        assert_eq!(*is, XfsOptions { sector_bytes: 4096, ..was.clone() });
        let text = plan.render_text();
        assert!(
            text.contains("vfat on /dev/sda2 gets sectors of 4096 bytes instead of 512"),
            "{text}"
        );
    }

    #[test]
    fn what_can_not_be_made_is_refused_by_name() {
        let refused = |change: fn(&mut Layout), why: &str| {
            let mut recorded = old_node();
            change(&mut recorded);
            assert!(on_sectors_of(&recorded, 512).is_ok());
            let refusal = on_sectors_of(&recorded, 4096).unwrap_err().to_string();
            assert!(refusal.contains(why), "{refusal}");
        };
        let full = |layout: &mut Layout| layout.fs[0].used_bytes = 60 * MIB;
        refused(full, "ext2 on /dev/sda1 can't be made with sectors of 4096 bytes: its blocks");
        let bios = |layout: &mut Layout| layout.boot.grub_disk = vec![Id::disk("sda")];
        refused(bios, "a BIOS can't start sda");
        let mut group = raid_node();
        group.vg[0].extent_bytes = 2048;
        let refusal = on_sectors_of(&group, 4096).unwrap_err().to_string();
        assert!(refusal.contains("the group vg0 can't be made"), "{refusal}");
        let mut array = raid_node();
        array.md[0].member_size_bytes = Some(GIB - MIB - 1024);
        let refusal = on_sectors_of(&array, 4096).unwrap_err().to_string();
        assert!(refusal.contains("the array md0 can't be made"), "{refusal}");
    }

    #[test]
    fn a_disk_with_the_recorded_sectors_is_taken_before_another() {
        let recorded = old_node();
        let mut present = empty();
        present.disk = vec![disk("vda", 4 * GIB), disk("vdb", 4 * GIB)];
        present.disk[0].sector_bytes = 4096;
        let plan = plan(&recorded, &present, &auto()).unwrap();
        assert_eq!(plan.disks[0].new.name, "vdb");
        assert_eq!(plan.layout.partition[1].start_bytes, recorded.partition[1].start_bytes);
    }

    #[test]
    fn small_sectors_in_place_of_large_ones_change_the_table_and_fat_alone() {
        let mut recorded = old_node();
        recorded = on_sectors_of(&recorded, 4096).unwrap().layout;
        let back = on_sectors_of(&recorded, 512).unwrap().layout;
        assert_eq!(back.partition, recorded.partition);
        assert_eq!((&back.fs[0], &back.fs[2]), (&recorded.fs[0], &recorded.fs[2]));
        assert_eq!(back.fs[1].vfat.as_ref().unwrap().sector_bytes, 512);
        let Some(Table::Gpt { first_usable_lba, last_usable_lba, .. }) = back.disk[0].table else {
            panic!("no GPT")
        };
        assert_eq!((first_usable_lba, last_usable_lba), (48, 4 * GIB / 512 - 34));
    }
}
