//! A layout as a tree that a person reads at a glance, in 80 columns.

use std::collections::BTreeSet;

use super::units::size;
use super::{Disk, Firmware, Id, Layout, Partition, PartitionKind, Table};

const COLUMNS: usize = 80;

/// Renders the machine: one line a device, below the device that it stands on. What joins several
/// devices (an array, a volume group) stands below the first of them; the others point to it.
pub fn render_tree(layout: &Layout) -> String {
    let mut tree = Tree::new(layout);
    for disk in &layout.disk {
        tree.add(&disk.id, "", "");
    }
    // What lost the disks below it: a group with a missing volume, an array in a rescue system.
    let orphans = layout.md.iter().map(|md| &md.id).chain(layout.vg.iter().map(|vg| &vg.id));
    for id in orphans {
        if !tree.shown.contains(id) {
            tree.add(id, "", "");
        }
    }
    let mut out = header(layout);
    out.push('\n');
    for line in tree.render(COLUMNS) {
        out.push_str(&line);
        out.push('\n');
    }
    out.push_str(&footer(layout));
    out
}

/// The disks of these names with what stands on them: lines of at most `columns` for each disk.
pub fn render_disks(layout: &Layout, names: &[&str], columns: usize) -> Vec<Vec<String>> {
    let mut tree = Tree::new(layout);
    let mut ends = Vec::new();
    for name in names {
        if let Some(disk) = layout.disk.iter().find(|disk| disk.name == *name) {
            tree.add(&disk.id, "", "");
        }
        ends.push(tree.lines.len());
    }
    let lines = tree.render(columns);
    let starts = [0].iter().chain(&ends);
    starts.zip(&ends).map(|(start, end)| lines[*start..*end].to_vec()).collect()
}

fn header(layout: &Layout) -> String {
    let node = &layout.node;
    let firmware = match (layout.boot.firmware, layout.boot.secure_boot) {
        (Firmware::Bios, _) => "BIOS",
        (Firmware::Uefi, false) => "UEFI",
        (Firmware::Uefi, true) => "UEFI with Secure Boot",
    };
    let machine = [node.vendor.as_str(), node.product.as_str()].join(" ");
    let parts = [node.hostname.as_str(), node.os.as_str(), machine.trim(), firmware];
    let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    cut(&parts.join(", "))
}

fn footer(layout: &Layout) -> String {
    let mut out = String::new();
    for nic in &layout.net.nic {
        let how = if nic.dhcp { " by DHCP" } else { "" };
        let addresses = nic.address.join(" ");
        out.push_str(&cut(&format!("{}  {}  {addresses}{how}", nic.name, nic.mac)));
    }
    for link in &layout.net.link {
        let how = if link.dhcp { " by DHCP" } else { "" };
        let (over, addresses) = (link.over.join(" "), link.address.join(" "));
        out.push_str(&cut(&format!("{}  on {over}  {addresses}{how}", link.name)));
    }
    if !out.is_empty() {
        out.insert_str(0, "\nNetwork\n");
    }
    if !layout.unprotected.is_empty() {
        out.push_str("\nNOT protected\n");
    }
    for missing in &layout.unprotected {
        // These are never cut: they are what has to be read.
        out.push_str(&format!("{}\n", missing.what));
        out.push_str(&wrap(&missing.why, "    "));
    }
    out
}

struct Line {
    name: String,
    size: String,
    what: String,
}

struct Tree<'a> {
    layout: &'a Layout,
    lines: Vec<Line>,
    shown: BTreeSet<Id>,
}

impl<'a> Tree<'a> {
    fn new(layout: &'a Layout) -> Tree<'a> {
        Tree { layout, lines: Vec::new(), shown: BTreeSet::new() }
    }

    /// Adds `id` and all that stands on it. `prefix` is drawn before its name, `below` before its
    /// children's.
    fn add(&mut self, id: &Id, prefix: &str, below: &str) {
        let again = !self.shown.insert(id.clone());
        let (name, size, mut what) = self.describe(id);
        if again {
            what = "see above".to_owned();
        }
        self.lines.push(Line { name: format!("{prefix}{name}"), size, what });
        if again {
            return;
        }
        let children = self.above(id);
        for (i, child) in children.iter().enumerate() {
            let last = i + 1 == children.len();
            let (branch, trunk) = if last { ("└─", "  ") } else { ("├─", "│ ") };
            self.add(child, &format!("{below}{branch}"), &format!("{below}{trunk}"));
        }
    }

    /// What stands directly on `id`, in the order of the places that it takes.
    fn above(&self, id: &Id) -> Vec<Id> {
        let layout = self.layout;
        let mut partitions: Vec<&Partition> =
            layout.partition.iter().filter(|p| p.disk == *id).collect();
        partitions.sort_by_key(|p| (p.start_bytes, p.number));
        let arrays = layout.md.iter().filter(|md| md.member.iter().any(|m| m.on == *id));
        let encrypted = layout.luks.iter().filter(|luks| luks.on == *id);
        let groups = layout.vg.iter().filter(|vg| vg.pv.iter().any(|pv| pv.on == *id));
        let volumes = layout.lv.iter().filter(|lv| lv.vg == *id);
        let partitions = partitions.into_iter().map(|p| &p.id);
        partitions
            .chain(arrays.map(|md| &md.id))
            .chain(encrypted.map(|luks| &luks.id))
            .chain(groups.map(|vg| &vg.id))
            .chain(volumes.map(|lv| &lv.id))
            .cloned()
            .collect()
    }

    fn describe(&self, id: &Id) -> (String, String, String) {
        let layout = self.layout;
        let mut what = Vec::new();
        let (name, bytes) = if let Some(disk) = layout.disk.iter().find(|d| d.id == *id) {
            let is_bare = self.content(id).is_none() && self.above(id).is_empty();
            what.push(disk_words(disk, is_bare));
            (disk.name.clone(), disk.size_bytes)
        } else if let Some(p) = layout.partition.iter().find(|p| p.id == *id) {
            what.push(partition_words(p));
            (p.name.clone(), p.size_bytes)
        } else if let Some(md) = layout.md.iter().find(|md| md.id == *id) {
            let table = md.table.as_ref().map(table_word).unwrap_or_default();
            what.push(format!("{} of {} {table}", md.level, md.raid_devices).trim().to_owned());
            (md.name.clone(), md.size_bytes)
        } else if let Some(luks) = layout.luks.iter().find(|luks| luks.id == *id) {
            what.push(format!("LUKS{}{}", luks.version, label(&luks.label)));
            let name = if luks.name.is_empty() { "not open" } else { luks.name.as_str() };
            (name.to_owned(), luks.size_bytes)
        } else if let Some(vg) = layout.vg.iter().find(|vg| vg.id == *id) {
            let extents: u64 = vg.pv.iter().map(|pv| pv.extents).sum();
            what.push("volume group".to_owned());
            (vg.name.clone(), extents.saturating_mul(vg.extent_bytes))
        } else if let Some(lv) = layout.lv.iter().find(|lv| lv.id == *id) {
            what.extend(Some(lv.kind.clone()).filter(|kind| kind != "linear"));
            (lv.name.clone(), lv.size_bytes)
        } else {
            (id.to_string(), 0)
        };
        what.extend(self.content(id));
        what.retain(|words| !words.is_empty());
        (name, size(bytes), what.join(", "))
    }

    /// The filesystem or swap that is on `id`, and where it is mounted.
    fn content(&self, id: &Id) -> Option<String> {
        let layout = self.layout;
        if let Some(swap) = layout.swap.iter().find(|swap| swap.on == *id) {
            return Some(format!("swap{}", label(&swap.label)));
        }
        let fs = layout.fs.iter().find(|fs| fs.devices().contains(id))?;
        let mut words = format!("{}{}", fs.kind, label(&fs.label));
        if fs.on != *id {
            words.push_str(" with ");
            words.push_str(&layout.dev(&fs.on).unwrap_or_default());
            return Some(words);
        }
        for mount in layout.mount.iter().filter(|m| m.fs == fs.id) {
            words.push_str(&format!(" {}", mount.path));
            match fs.subvolume_of(mount).map(|subvolume| subvolume.display().to_string()) {
                Some(name) if !name.is_empty() => words.push_str(&format!(" ({name})")),
                None if mount.root.is_some() => words.push_str(" (bind)"),
                _ => {}
            }
        }
        Some(words)
    }

    fn render(&self, columns: usize) -> Vec<String> {
        let width = |text: &str| text.chars().count();
        let names = self.lines.iter().map(|l| width(&l.name)).max().unwrap_or(0).min(30);
        let sizes = self.lines.iter().map(|l| width(&l.size)).max().unwrap_or(0);
        let line = |l: &Line| {
            let text = format!("{:names$}  {:>sizes$}  {}", l.name, l.size, l.what);
            cut_at(columns, &text)
        };
        self.lines.iter().map(line).collect()
    }
}

fn label(label: &str) -> String {
    if label.is_empty() { String::new() } else { format!(" {label:?}") }
}

/// `is_bare`: nothing of the layout stands on it.
fn disk_words(disk: &Disk, is_bare: bool) -> String {
    let table = match (&disk.table, disk.signatures.is_empty()) {
        (Some(table), _) => table_word(table),
        (None, true) if is_bare => "blank",
        (None, _) => "",
    };
    let unused = if disk.unused { "NOT IN USE" } else { "" };
    let identity = [disk.model.as_deref(), disk.serial.as_deref().or(disk.wwn.as_deref())];
    let identity = identity.into_iter().flatten();
    let words = [unused, table].into_iter().chain(identity).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(", ")
}

fn table_word(table: &Table) -> &'static str {
    match table {
        Table::Gpt { hybrid: Some(_), .. } => "GPT with hybrid MBR",
        Table::Gpt { .. } => "GPT",
        Table::Mbr { .. } => "MBR",
    }
}

/// What a partition is for, where its content does not tell.
fn partition_words(partition: &Partition) -> String {
    match (partition.kind, partition.type_code.as_str()) {
        (PartitionKind::Extended, _) => "extended",
        (_, "21686148-6449-6e6f-744e-656564454649") => "BIOS boot",
        (_, "9e1a2d38-c612-4316-aa26-8b49521e5a8b" | "0x41") => "PReP boot",
        (_, "c12a7328-f81f-11d2-ba4b-00a0c93ec93b" | "0xef") => "ESP",
        _ => "",
    }
    .to_owned()
}

/// Lines that fit, broken between words, each after `indent`.
fn wrap(text: &str, indent: &str) -> String {
    let mut out = String::new();
    let mut line = indent.to_owned();
    for word in text.split_whitespace() {
        if line.len() > indent.len() && line.chars().count() + word.chars().count() >= COLUMNS {
            out.push_str(line.trim_end());
            out.push('\n');
            line.replace_range(indent.len().., "");
        }
        line.push_str(word);
        line.push(' ');
    }
    out.push_str(line.trim_end());
    out.push('\n');
    out
}

/// One line that fits.
fn cut(line: &str) -> String {
    cut_at(COLUMNS, line) + "\n"
}

fn cut_at(columns: usize, line: &str) -> String {
    let line = line.trim_end();
    if line.chars().count() <= columns {
        return line.to_owned();
    }
    let head: String = line.chars().take(columns.saturating_sub(1)).collect();
    format!("{head}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_what_people_see() {
        let node = include_str!("../../tests/fixtures/layout/node.toml");
        let tree = render_tree(&crate::layout::schema::parse(node).unwrap());
        assert_eq!(tree, include_str!("../../tests/fixtures/layout/node.tree"));
    }

    #[test]
    fn a_disk_with_a_filesystem_or_an_array_on_all_of_it_is_not_blank() {
        let node = include_str!("../../tests/fixtures/layout/node.toml");
        let mut layout = crate::layout::schema::parse(node).unwrap();
        let bare =
            Disk { id: Id::disk("sdz"), name: "sdz".into(), table: None, ..layout.disk[0].clone() };
        layout.disk.push(Disk { signatures: Vec::new(), ..bare });
        let line = |layout: &Layout| render_disks(layout, &["sdz"], 80)[0][0].clone();
        assert!(line(&layout).contains("blank"), "{}", line(&layout));
        let mut on_disk = layout.clone();
        on_disk.fs[0].on = Id::disk("sdz");
        assert!(!line(&on_disk).contains("blank"), "{}", line(&on_disk));
        let mut member = layout.clone();
        member.md[0].member[0].on = Id::disk("sdz");
        assert!(!line(&member).contains("blank"), "{}", line(&member));
    }

    #[test]
    fn a_long_line_is_cut_where_the_screen_ends() {
        let line = cut(&"ä".repeat(100));
        assert_eq!(line.trim_end().chars().count(), COLUMNS);
        assert!(line.ends_with("…\n"));
        assert_eq!(cut("short  "), "short\n");
    }
}
