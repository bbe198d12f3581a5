//! Volume groups and the volumes in them.
//!
//! What LVM's recorded metadata can bring back comes back from it, places, UUIDs and all. Other
//! volumes are created anew and get their UUIDs when all are there, which LVM does only while none of
//! the group is in use: a group is done before anything is made on its volumes.

use super::lvmtext::{self, Restorable};
use super::step::{CreateLv, CreateVg, KeepUuids, Step};
use super::{IdentityChange, Problem};
use crate::layout::{Id, Layout, Lv, LvSegment, Vg};

/// How one group is made.
#[derive(Debug)]
pub struct Group {
    pub steps: Vec<Step>,
    /// It and its volumes.
    pub gives: Vec<Id>,
    pub identity_changes: Vec<IdentityChange>,
    pub notes: Vec<String>,
}

/// `lacks` has the kinds of volumes that can't be made here.
pub fn group(layout: &Layout, vg: &Vg, lacks: &[String], problems: &mut Vec<Problem>) -> Group {
    let lvs: Vec<_> = layout.lv.iter().filter(|l| l.vg == vg.id).collect();
    let restorable = restorable(vg, &lvs, lacks);
    let is_back = |lv: &Lv| restorable.as_ref().is_some_and(|r| r.volumes.contains(&lv.name));
    let mut anew: Vec<&Lv> = lvs.iter().copied().filter(|lv| !is_back(lv)).collect();
    // Pools before what is in them.
    anew.sort_by_key(|lv| lv.kind == "thin");
    problems.extend(anew.iter().filter_map(|lv| cannot_create(vg, lv)));
    let kept = if restorable.is_some() { uuids(vg, &anew) } else { Vec::new() };
    let is_kept = |lv: &Lv| kept.iter().any(|(name, uuid)| *name == lv.name && *uuid == lv.uuid);
    let mut identity_changes = Vec::new();
    if restorable.is_none() {
        identity_changes.push(IdentityChange {
            what: format!("UUID of volume group {}", vg.name),
            old: vg.uuid.clone(),
            new: String::new(),
        });
    }
    identity_changes.extend(anew.iter().filter(|lv| !is_kept(lv)).map(|lv| IdentityChange {
        what: format!("UUID of logical volume {}/{}", vg.name, lv.name),
        old: lv.uuid.clone(),
        new: String::new(),
    }));
    let cached = anew.iter().filter(|lv| is_cached(lv));
    let notes = cached.map(|lv| {
        format!(
            "{} comes back without its cache: lvconvert --type {} makes another.",
            lv.name, lv.kind
        )
    });
    let mut notes: Vec<_> = notes.collect();
    notes.extend(restorable.as_ref().and_then(|r| r.system_id.as_ref()).map(|id| {
        let vg = &vg.name;
        format!(
            "Volume group {vg} comes back without its system ID: vgchange --systemid {id} {vg}."
        )
    }));
    let mut steps = vec![Step::CreateVg(create(layout, vg, restorable))];
    steps.extend(anew.iter().map(|lv| Step::CreateLv(volume(layout, vg, lv))));
    if !kept.is_empty() {
        steps.push(Step::KeepUuids(KeepUuids { vg: vg.name.clone(), uuids: kept }));
    }
    let gives = std::iter::once(&vg.id).chain(lvs.iter().map(|lv| &lv.id)).cloned().collect();
    Group { steps, gives, identity_changes, notes }
}

/// Whether a part of the volume's data is on faster disks.
pub fn is_cached(lv: &Lv) -> bool {
    matches!(lv.kind.as_str(), "cache" | "writecache")
}

/// Whether none of its data is on an array inside LVM.
pub fn is_on_plain(lv: &Lv) -> bool {
    lv.segment.iter().all(|s| matches!(s.kind.as_str(), "linear" | "striped"))
}

fn create(layout: &Layout, vg: &Vg, restorable: Option<Restorable>) -> CreateVg {
    let device = |uuid: &str| vg.pv.iter().find(|pv| pv.uuid == uuid).map(|pv| &pv.on);
    let clear = restorable.iter().flat_map(|r| &r.clear).filter_map(|(pv, at, bytes)| {
        Some((device(pv).and_then(|on| layout.dev(on))?, *at, *bytes))
    });
    let (clear, restore) = (clear.collect(), restorable.is_some());
    let mut recorded = vg.clone();
    if let Some(restorable) = restorable {
        recorded.metadata = restorable.text;
    }
    let devices = vg.pv.iter().filter_map(|pv| layout.dev(&pv.on)).collect();
    CreateVg { vg: recorded, devices, restore, clear }
}

fn volume(layout: &Layout, vg: &Vg, lv: &Lv) -> CreateLv {
    CreateLv {
        vg: vg.name.clone(),
        lv: lv.clone(),
        places: lv.segment.iter().map(|s| places(layout, s)).collect(),
    }
}

/// What comes back from the recorded metadata, if it is there and speaks of these physical volumes.
fn restorable(vg: &Vg, lvs: &[&Lv], lacks: &[String]) -> Option<Restorable> {
    let speaks_of_it = vg.metadata.contains(&vg.uuid)
        && !vg.uuid.is_empty()
        && vg.pv.iter().all(|pv| vg.metadata.contains(&pv.uuid));
    let wanted = lvs.iter().filter(|lv| !lacks.contains(&lv.kind)).map(|lv| lv.name.as_str());
    lvmtext::restorable(&vg.metadata, &vg.name, &wanted.collect()).filter(|_| speaks_of_it)
}

/// The recorded UUIDs of volumes that are created anew, and of their hidden parts.
fn uuids(vg: &Vg, anew: &[&Lv]) -> Vec<(String, String)> {
    let of = |lv: &&Lv| lvmtext::uuids(&vg.metadata, &vg.name, &lv.name);
    let mut uuids: Vec<_> = anew.iter().flat_map(of).collect();
    uuids.retain(|(_, uuid)| lvmtext::is_uuid(uuid));
    uuids.sort_unstable();
    uuids.dedup();
    uuids
}

/// Why lvcreate alone does not make it: its data lies on arrays.
fn cannot_create(vg: &Vg, lv: &Lv) -> Option<Problem> {
    if lv.kind == "thin" || is_on_plain(lv) {
        return None;
    }
    Some(Problem::new(
        format!("{}/{} ({}) lies on an array inside LVM", vg.name, lv.name, lv.kind),
        "rr makes thin pools on plain extents alone, and arrays from LVM's metadata: without it, back the node up again",
    ))
}

/// `part:sda2:0-99` with today's name of the device.
fn places(layout: &Layout, segment: &LvSegment) -> Vec<String> {
    let place = |text: &String| {
        let (id, range) = text.rsplit_once(':')?;
        Some(format!("{}:{range}", layout.dev(&Id(id.to_owned()))?))
    };
    segment.on.iter().filter_map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{Pv, ThinPool};
    use crate::plan::testing::{GIB, MIB, blank, disk, empty, fs, mount};
    use crate::plan::{Answers, Plan, Refusal, plan};

    const CACHED: &str = include_str!("../../tests/fixtures/probe/debian12/vgcfgbackup.cached");
    const COMPLEX: &str = include_str!("../../tests/fixtures/probe/debian12/vgcfgbackup.complex");

    /// A group with volumes of these kinds, the first one as the root, and all that a plan reads of it.
    fn node(name: &str, uuids: [&str; 4], metadata: &str, volumes: &[(&str, &str)]) -> Layout {
        let mut node = empty();
        let [uuid, on_disks @ ..] = uuids;
        let vg = Id::vg(name);
        let mut pvs = Vec::new();
        for (disk_name, uuid) in ["sda", "sdb", "sdc"].into_iter().zip(on_disks) {
            let disk = disk(disk_name, GIB);
            pvs.push(Pv {
                on: disk.id.clone(),
                uuid: uuid.into(),
                size_bytes: GIB,
                pe_start_bytes: MIB,
                extents: 1000,
                tags: Vec::new(),
            });
            node.disk.push(disk);
        }
        node.vg.push(Vg {
            id: vg.clone(),
            name: name.into(),
            uuid: uuid.into(),
            extent_bytes: MIB,
            tags: Vec::new(),
            pv: pvs,
            metadata: metadata.into(),
        });
        for (lv, kind) in volumes {
            let (kind, below) = kind.split_once(" on ").unwrap_or((kind, "linear"));
            let uuids = lvmtext::uuids(metadata, name, lv);
            let pool = ThinPool {
                metadata_bytes: 4 * MIB,
                chunk_bytes: 65_536,
                discards: "passdown".into(),
                zero: true,
                spare: true,
            };
            node.lv.push(Lv {
                id: Id::lv(name, lv),
                vg: vg.clone(),
                name: (*lv).into(),
                uuid: uuids.into_iter().find(|(of, _)| of == lv).unwrap().1,
                size_bytes: 40 * MIB,
                kind: kind.into(),
                tags: Vec::new(),
                segment: vec![LvSegment {
                    kind: below.into(),
                    extents: 40,
                    stripes: 1,
                    stripe_bytes: 0,
                    on: Vec::new(),
                }],
                pool: if kind == "thin" { "pool".into() } else { String::new() },
                origin: String::new(),
                thin_pool: (kind == "thin-pool").then_some(pool),
            });
        }
        let root = fs(&node.lv[0].id, "ext4", 40 * MIB);
        node.mount.push(mount("/", &root.id));
        node.fs.push(root);
        node
    }

    fn cached(volumes: &[(&str, &str)]) -> Layout {
        let uuids = [
            "dUUID",
            "jmcgLn-Iafc-Kc29-xcpY-mt5R-WffT-XNU6A6",
            "5005Q3-pSzh-Ox2t-BOzV-N2iS-209z-WcVcPM",
            "4z6Qjp-b4uN-iVI2-I0SD-gsg0-wlLp-S9COHV",
        ];
        let of_group = CACHED.lines().find_map(|line| line.trim().strip_prefix("id = ")).unwrap();
        let [_, pvs @ ..] = uuids;
        let [a, b, c] = pvs;
        node("vg", [of_group.trim_matches('"'), a, b, c], CACHED, volumes)
    }

    fn planned(node: &Layout, lacks: &[&str]) -> Result<Plan, Refusal> {
        let lacks = lacks.iter().map(|kind| (*kind).to_owned()).collect();
        plan(node, node, &Answers { auto: true, lacks, ..Answers::default() })
    }

    fn kept(plan: &Plan) -> Option<&KeepUuids> {
        plan.steps.iter().find_map(|step| match step {
            Step::KeepUuids(keep) => Some(keep),
            _ => None,
        })
    }

    #[test]
    fn cached_volumes_come_back_with_their_caches_where_the_kernel_knows_them() {
        let node =
            cached(&[("slow", "cache"), ("slow2", "cache on raid1"), ("slow3", "writecache")]);
        let plan = planned(&node, &[]).unwrap();
        let script = plan.render_script();
        assert!(!script.contains("lvcreate") && kept(&plan).is_none(), "{script}");
        // The metadata of the pool lies from the seventh MiB on.
        let clear =
            "dd if=/dev/zero of=/dev/sdb bs=512 seek=12288 count=2048 conv=fsync status=none";
        assert!(script.contains(clear), "{script}");
        assert!(plan.identity_changes().is_empty() && plan.notes.is_empty(), "{:?}", plan.notes);
        // An array below can't be made without the metadata that also makes the cache.
        let text = planned(&node, &["cache"]).unwrap_err().to_string();
        assert!(text.contains("vg/slow2 (cache) lies on an array inside LVM"), "{text}");
        let node = cached(&[("slow", "cache"), ("slow3", "writecache")]);
        let plan = planned(&node, &["cache"]).unwrap();
        assert!(plan.notes.iter().any(|n| n.starts_with("slow comes back without its cache")));
        assert!(plan.notes.iter().all(|n| !n.starts_with("slow3")));
        assert!(plan.identity_changes().is_empty(), "{:?}", plan.identity_changes());
        let uuid = "JJQhto-bMHn-HI3S-2ABT-gQkn-1YBR-yBae9n";
        assert_eq!(kept(&plan).unwrap().uuids, [("slow".to_owned(), uuid.to_owned())]);
    }

    #[test]
    fn a_group_that_is_one_systems_own_is_made_for_any() {
        let mut node = cached(&[("slow", "cache")]);
        let own = "\tsystem_id = \"node1\"\n\textent_size = ";
        node.vg[0].metadata = CACHED.replacen("\textent_size = ", own, 1);
        let plan = planned(&node, &[]).unwrap();
        assert!(!plan.render_script().contains("node1"), "{}", plan.render_script());
        let told =
            "Volume group vg comes back without its system ID: vgchange --systemid node1 vg.";
        assert_eq!(plan.notes, [told]);
    }

    #[test]
    fn a_disk_with_nothing_but_caches_can_be_left_out() {
        let mut node = cached(&[("slow", "cache"), ("slow3", "writecache")]);
        for lv in &mut node.lv {
            lv.segment[0].on = vec!["disk:sda:0-39".into()];
        }
        let without = |node: &Layout, disk: &str| {
            let map = vec![(disk.to_owned(), "none".to_owned())];
            let mut present = blank(node);
            present.disk.retain(|present| present.name != disk);
            plan(node, &present, &Answers { map, auto: true, ..Answers::default() })
        };
        let text = without(&node, "sda").unwrap_err().to_string();
        assert!(text.contains("a part of volume group vg is on sda"), "{text}");
        let plan = without(&node, "sdb").unwrap();
        let told = plan.notes.join("\n");
        assert!(told.contains("Volume group vg is made anew without /dev/sdb"), "{told}");
        for lv in ["slow", "slow3"] {
            assert!(told.contains(&format!("{lv} comes back without its cache")), "{told}");
        }
        let script = plan.render_script();
        assert!(script.contains("vgcreate") && !script.contains("/dev/sdb"), "{script}");
        // The mirror below has data there.
        let node = cached(&[("slow2", "cache on raid1")]);
        let text = without(&node, "sdc").unwrap_err().to_string();
        assert!(text.contains("a part of volume group vg is on sdc"), "{text}");
    }

    #[test]
    fn thin_volumes_get_their_uuids_before_anything_is_on_them() {
        let of = |start: &str| {
            let at = COMPLEX.find(start).unwrap();
            COMPLEX[at..].split('"').nth(1).unwrap()
        };
        let uuids = [of("\tid = "), of("pv0 {"), of("pv1 {"), of("pv2 {")];
        // A volume before its pool, by name.
        let thin = [("lin", "linear"), ("t1", "thin"), ("pool", "thin-pool")];
        let node = node("vg0", uuids, COMPLEX, &thin);
        let plan = planned(&node, &[]).unwrap();
        assert!(plan.identity_changes().is_empty(), "{:?}", plan.identity_changes());
        let names: Vec<_> =
            kept(&plan).unwrap().uuids.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["lvol0_pmspare", "pool", "pool_tdata", "pool_tmeta", "t1"]);
        let said: Vec<_> = plan.steps.iter().map(Step::describe).collect();
        let at = |what: &str| said.iter().position(|said| said.starts_with(what)).unwrap();
        assert!(at("create volume vg0/pool") < at("create volume vg0/t1"), "{said:?}");
        let keep = at("give volumes of vg0 their UUIDs");
        assert!(at("create volume vg0/t1") < keep && keep < at("make ext4"), "{said:?}");
        let script = plan.render_script();
        let t1 = lvmtext::uuids(COMPLEX, "vg0", "t1").remove(0).1;
        assert!(script.contains(&format!("/^\t\tt1 {{$/ {{ n; s/id = \".*\"/id = \"{t1}\"/; }}")));
        assert!(script.contains("lvm vgcfgrestore --force --file /tmp/vg0.vg vg0\n"), "{script}");
        // Without the metadata nobody knows that the group is the same.
        let mut node = node;
        node.vg[0].metadata.clear();
        let plan = planned(&node, &[]).unwrap();
        assert!(kept(&plan).is_none());
        assert_eq!(plan.identity_changes().len(), 4);
    }
}
