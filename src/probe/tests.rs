//! The parsers on real output: see tests/fixtures/probe/README.md.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::*;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/probe").join(name)
}

fn fixture(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

const RELEASES: [&str; 3] = ["debian11", "debian12", "debian13"];

#[test]
fn ext4_is_read_from_every_version_of_dumpe2fs() {
    for release in RELEASES {
        let found = ext::parse(&fixture(&format!("{release}/dumpe2fs.ext4"))).unwrap();
        assert_eq!((found.block_bytes, found.blocks), (1024, 135_168), "{release}");
        assert_eq!(found.journal_bytes, Some(4 << 20), "{release}");
        let inode_bytes = if release == "debian11" { 128 } else { 256 };
        assert_eq!(found.inode_bytes, inode_bytes, "{release}");
        assert!(found.features.iter().any(|f| f == "metadata_csum"), "{release}");
        assert!(!found.features.iter().any(|f| f == "needs_recovery"), "a state: {release}");
        assert_eq!(found.mount_options, ["user_xattr", "acl"], "{release}");
        assert_eq!(found.max_mount_count, -1, "{release}");
        assert_eq!(found.hash_seed.unwrap().len(), 36, "{release}");
        assert_eq!(found.stride, None, "{release}");
    }
    let orphan_file = ext::parse(&fixture("debian13/dumpe2fs.ext4")).unwrap();
    assert!(orphan_file.features.iter().any(|f| f == "orphan_file"));
}

#[test]
fn ext_tunables_are_read() {
    let text = fixture("debian12/dumpe2fs.tuned");
    let found = ext::parse(&text).unwrap();
    assert_eq!((found.stride, found.stripe_width), (Some(16), Some(32)));
    assert_eq!(found.flex_groups, None, "the default goes without saying");
    let line = text.lines().find(|line| line.starts_with("Flex block group size")).unwrap();
    let wide = ext::parse(&text.replace(line, "Flex block group size:    64")).unwrap();
    assert_eq!(wide.flex_groups, Some(64));
    assert_eq!(found.max_mount_count, 30);
    assert_eq!(found.check_interval_seconds, 15_552_000);
    assert_eq!(found.errors.as_deref(), Some("Remount read-only"));
    assert_eq!(found.reserved_blocks, 1966);
    let ext3 = ext::parse(&fixture("debian12/dumpe2fs.ext3")).unwrap();
    assert!(ext3.journal_bytes.is_some() && !ext3.features.iter().any(|f| f == "extent"));
    let error = ext::parse("dumpe2fs: Bad magic number in super-block").unwrap_err();
    assert!(error.to_string().contains("Block size"), "{error:#}");
}

/// Lines of xfsprogs 6.1, of an xfs that is mounted and of one that is not.
#[test]
fn a_log_outside_of_an_xfs_is_not_taken_for_one_within() {
    let within = fixture("debian12/xfs_info.mounted");
    let log = within.lines().find(|line| line.starts_with("log")).unwrap();
    for outside in [
        "log      =/dev/loop1             bsize=4096   blocks=16384, version=2",
        "log      =external               bsize=4096   blocks=16384, version=2",
    ] {
        let (found, at) = xfs::parse(&within.replace(log, outside)).unwrap();
        let device = outside.contains("/dev/loop1").then(|| "/dev/loop1".to_owned());
        assert_eq!((found.log_blocks, at), (16384, xfs::Log::Outside(device)));
    }
    let realtime = "realtime =/dev/sdc1              extsz=4096   blocks=16384, rtextents=16384";
    let error = format!("{:#}", xfs::parse(&within.replace(log, realtime)).unwrap_err());
    assert!(error.contains("on a device of its own"), "{error}");
}

#[test]
fn xfs_is_read_from_every_version_of_xfs_info() {
    for (release, flags) in [
        ("debian11", vec![("bigtime", 0), ("rmapbt", 0)]),
        ("debian12", vec![("bigtime", 1), ("inobtcount", 1), ("nrext64", 0), ("rmapbt", 0)]),
        ("debian13", vec![("nrext64", 1), ("exchange", 0), ("metadir", 0), ("parent", 0)]),
    ] {
        let (found, log) = xfs::parse(&fixture(&format!("{release}/xfs_info.file"))).unwrap();
        assert_eq!(log, xfs::Log::Within, "{release}");
        assert_eq!((found.block_bytes, found.blocks), (4096, 102_400), "{release}");
        assert_eq!((found.inode_bytes, found.sector_bytes, found.agcount), (512, 512, 4));
        assert_eq!((found.imaxpct, found.dir_block_bytes), (25, 4096), "{release}");
        let log_blocks = if release == "debian11" { 1368 } else { 16384 };
        assert_eq!(found.log_blocks, log_blocks, "{release}");
        for (flag, value) in flags.into_iter().chain([("crc", 1), ("ftype", 1), ("lazy-count", 1)])
        {
            assert_eq!(found.flags.get(flag), Some(&value), "{release} {flag}");
        }
        for geometry in ["agsize", "isize", "version", "blocks", "rtextents", "extsz"] {
            assert_eq!(found.flags.get(geometry), None, "{release} {geometry}");
        }
        let (mounted, _) = xfs::parse(&fixture(&format!("{release}/xfs_info.mounted"))).unwrap();
        assert_eq!(mounted.blocks, 90_112, "{release}");
    }
    assert!(xfs::parse("").is_err());
    assert!(xfs::parse("cannot open /dev/sdz").is_err());
}

#[test]
fn vfat_is_read_from_its_boot_sector() {
    let sector: [u8; 512] = std::fs::read(path("debian12/vfat.bs")).unwrap().try_into().unwrap();
    let found = vfat::parse(&sector).unwrap();
    assert_eq!(found.size_bytes, 60 << 20);
    assert_eq!(found.options.fat_bits, 16);
    assert_eq!(found.options.sector_bytes, 512);
    assert_eq!(found.options.fats, 2);
    assert!(vfat::parse(&[0; 512]).is_err());
}

#[test]
fn blkid_and_wipefs_are_understood() {
    let found = blkid::parse("DEVNAME=/dev/sda1\nLABEL=a b\nUUID=AB-1\nTYPE=vfat\n");
    assert_eq!((found.label.as_str(), found.kind.as_str()), ("a b", "vfat"));
    let signatures = |name| blkid::parse_signatures(&fixture(name)).unwrap();
    assert_eq!(signatures("debian12/wipefs.ubdb"), ["PMBR", "gpt"]);
    assert_eq!(signatures("debian12/wipefs.ubdd"), ["dos"]);
    assert!(blkid::parse_signatures("").unwrap().is_empty());
    // util-linux 2.38; 2.23 has a line of headings above it.
    let text = "# offset,uuid,label,type\n0x438,cbd0a88f-aa2b-4573-a212-f1c805258ec0,a,b,ext4\n";
    assert_eq!(blkid::parse_parsable(text), ["ext4"]);
    let text = "0x200,,,gpt\n0x27ffe00,,,gpt\n0x1fe,,,PMBR\n";
    assert_eq!(blkid::parse_parsable(text), ["PMBR", "gpt"]);
    assert!(blkid::parse_parsable("").is_empty());
    assert!(blkid::parse_signatures("{\n   \"signatures\": [\n\n   ]\n}\n").unwrap().is_empty());
}

#[test]
fn udev_answers_for_several_devices_at_once() {
    let found = block::parse_udev(&fixture("debian12/udev"));
    assert_eq!(found["ubdb"]["ID_PATH"], "platform-uml-blkdev.1");
    assert_eq!(found["ubdb1"]["ID_PART_ENTRY_NAME"], "ESP");
    assert_eq!(found["md0"]["MD_NAME"], "node001:0");
}

#[test]
fn mounts_and_swaps_are_understood() {
    let parse_mounts = crate::sys::mount::parse;
    let mounts = parse_mounts(&std::fs::read(path("debian12/mountinfo")).unwrap());
    let local: Vec<_> = mounts.iter().filter(|m| m.is_local()).collect();
    assert_eq!(local.len(), 3);
    assert_eq!(local[0].path, Path::new("/mnt/a b"));
    assert_eq!(local[0].device, (253, 0));
    assert_eq!(local[1].options, "rw,relatime,attr2,inode64,logbufs=8,logbsize=32k,noquota");
    assert_eq!((local[2].root.as_path(), local[2].kind.as_str()), (Path::new("/sub"), "xfs"));
    let nfs = b"36 1 0:43 / /srv rw shared:1 master:2 - nfs4 host:/a\\040b rw,vers=4.2\n";
    let nfs = parse_mounts(nfs).remove(0);
    assert!(!nfs.is_local());
    assert_eq!(nfs.source, Path::new("host:/a b"));
    let fuse =
        b"37 1 0:44 / /x rw - fuse.sshfs me@host: rw\n38 1 8:1 / /y rw - fuseblk /dev/sda1 rw\n";
    let fuse: Vec<bool> = parse_mounts(fuse).iter().map(MountInfo::is_local).collect();
    assert_eq!(fuse, [false, true]);
    let swaps = swaps::parse(&std::fs::read(path("debian12/swaps")).unwrap());
    assert_eq!(swaps, [swaps::Active { path: "/dev/dm-1".into(), file: false }]);
}

/// `mdN.sysfs`: `name=value` lines, then `dev-NAME key=value ...` for each member.
fn md_sysfs(name: &str) -> md::Sysfs {
    let mut sysfs = md::Sysfs::default();
    for line in fixture(name).lines() {
        match line.split_once(' ').filter(|_| line.starts_with("dev-")) {
            Some((member, values)) => {
                let values = values.split(' ').filter_map(|pair| pair.split_once('='));
                let values = values.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
                sysfs.members.insert(member.to_owned(), values);
            }
            None => {
                let (key, value) = line.split_once('=').unwrap();
                sysfs.values.insert(key.to_owned(), value.to_owned());
            }
        }
    }
    sysfs
}

#[allow(clippy::unnecessary_wraps)] // the shape of what the parsers ask
fn partition_id(name: &str) -> Option<Id> {
    Some(Id::partition(name.trim_start_matches("/dev/")))
}

fn array(release: &str, name: &str) -> crate::layout::Md {
    let sysfs = md_sysfs(&format!("{release}/{name}.sysfs"));
    let export = fixture(&format!("{release}/{name}.detail"));
    md::build(name, 1 << 20, &sysfs, &export, &partition_id).unwrap()
}

#[test]
fn arrays_are_read_with_what_mdadm_needs_to_make_them_again() {
    let boot = array("debian12", "md0");
    assert_eq!((boot.level.as_str(), boot.metadata.as_str()), ("raid1", "1.0"));
    assert_eq!(boot.uuid, "20009087:2da9f37a:eb257735:7d4485ad");
    assert_eq!(boot.array_name.as_deref(), Some("node001:0"));
    assert_eq!((boot.chunk_bytes, &boot.layout, &boot.bitmap), (None, &None, &None));
    assert_eq!(boot.data_offset_bytes, Some(0));
    let slots: Vec<_> = boot.member.iter().map(|m| (m.on.0.as_str(), m.slot)).collect();
    assert_eq!(slots, [("part:ubdb2", Some(0)), ("part:ubdc2", Some(1))]);
    assert_eq!(array("debian12", "md1").bitmap.as_deref(), Some("internal"));
    assert_eq!(array("debian12", "md10").layout.as_deref(), Some("f2"));
    assert_eq!(array("debian12", "md6").layout.as_deref(), Some("left-symmetric"));
    for release in RELEASES {
        let md5 = array(release, "md5");
        assert_eq!(md5.layout.as_deref(), Some("left-symmetric"), "{release}");
        assert_eq!((md5.raid_devices, md5.member.len()), (3, 4), "{release}");
        assert_eq!(md5.member[3].slot, None, "a spare comes last: {release}");
        assert_eq!(md5.chunk_bytes, Some(65536), "{release}");
        assert_eq!(md5.data_offset_bytes, Some(1 << 20), "{release}");
        assert_eq!(md5.member_size_bytes, Some(39936 << 10), "{release}");
    }
}

#[test]
fn arrays_of_firmware_are_named_and_not_taken_for_others() {
    for kind in ["imsm", "ddf"] {
        let sysfs = md_sysfs(&format!("debian12/{kind}.sysfs"));
        let export = fixture(&format!("debian12/{kind}.detail"));
        let error = md::build("md126", 1, &sysfs, &export, &partition_id).unwrap_err();
        assert!(error.to_string().contains("firmware RAID is not supported yet"), "{error}");
    }
}

#[test]
fn a_write_journal_is_named_and_not_taken_for_a_spare() {
    let mut sysfs = md_sysfs("debian12/md5.sysfs");
    let export = fixture("debian12/md5.detail");
    let journal = [("slot", "journal"), ("state", "in_sync,journal"), ("offset", "2048")];
    let journal = journal.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    sysfs.members.insert("dev-nvme0n1".to_owned(), journal);
    let error = md::build("md5", 1, &sysfs, &export, &partition_id).unwrap_err().to_string();
    assert!(error.starts_with("its write journal is on /dev/nvme0n1: a recovery can't"), "{error}");
}

#[test]
fn a_degraded_array_keeps_the_number_of_disks_it_should_have() {
    let mut sysfs = md_sysfs("debian12/md1.sysfs");
    sysfs.members.remove("dev-ubdc3");
    let export = fixture("debian12/md1.degraded.detail");
    let md = md::build("md1", 1, &sysfs, &export, &partition_id).unwrap();
    assert_eq!((md.raid_devices, md.member.len()), (2, 1));
    let failed = BTreeMap::from([("state".to_owned(), "faulty,blocked".to_owned())]);
    sysfs.members.insert("dev-ubdc3".to_owned(), failed);
    assert_eq!(md::build("md1", 1, &sysfs, &export, &partition_id).unwrap(), md);
}

#[test]
fn volume_groups_are_read_from_every_version_of_lvm() {
    for release in RELEASES {
        let report = fixture(&format!("{release}/fullreport.json"));
        let found = lvm::parse(&report, &partition_id).unwrap();
        let names: Vec<_> = found.vg.iter().map(|vg| vg.name.as_str()).collect();
        assert_eq!(names, ["vg-data", "vg0"], "{release}");
        let data = &found.vg[0];
        assert_eq!((data.extent_bytes, &data.tags[..]), (8 << 20, &["prod".to_owned()][..]));
        assert_eq!(data.pv.len(), 2, "{release}");
        assert_eq!(data.pv[0].on, Id::partition("ubdb4"), "{release}");
        assert_eq!((data.pv[0].pe_start_bytes, data.pv[0].extents), (1 << 20, 29), "{release}");
        let lv = |name: &str| found.lv.iter().find(|lv| lv.name == name).unwrap();
        let striped = lv("str-iped");
        assert_eq!(
            (striped.kind.as_str(), &striped.tags[..]),
            ("striped", &["a".into(), "b".into()][..])
        );
        assert_eq!((striped.segment[0].stripes, striped.segment[0].stripe_bytes), (2, 128 << 10));
        assert_eq!(striped.segment[0].on, ["part:ubdb4:0-3", "part:ubdc4:0-3"], "{release}");
        let root = lv("root");
        assert_eq!(root.vg, Id::vg("vg0"), "{release}");
        let extents: Vec<_> = root.segment.iter().map(|s| (s.extents, s.on[0].as_str())).collect();
        assert_eq!(extents, [(30, "part:md1:0-29"), (3, "part:md1:43-45")], "in order: {release}");
        assert_eq!(root.size_bytes, 33 * (4 << 20), "{release}");
        assert_eq!(found.notes.len(), 1, "{release}");
        assert_eq!(found.notes[0].0, "/dev/md10", "a volume without a group: {release}");
    }
}

#[test]
fn device_mapper_names_are_split_at_the_single_dash() {
    let split = |name| lvm::split_dm_name(name).map(|(vg, lv)| format!("{vg}/{lv}"));
    assert_eq!(split("vg0-root").as_deref(), Some("vg0/root"));
    assert_eq!(split("vg--data-str--iped").as_deref(), Some("vg-data/str-iped"));
    assert_eq!(split("a----b-c").as_deref(), Some("a--b/c"));
    assert_eq!(split("mpatha"), None);
}

/// An EFI_LOAD_OPTION as shim's fallback writes it: attributes, length of the path, label, path.
fn load_option(label: &str, nodes: &[(u8, u8, Vec<u8>)]) -> Vec<u8> {
    let utf16 = |text: &str| -> Vec<u8> {
        text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
    };
    let mut path = Vec::new();
    for (kind, subtype, data) in nodes.iter().chain([&(0x7f, 0xff, Vec::new())]) {
        path.extend([*kind, *subtype]);
        path.extend(u16::try_from(data.len() + 4).unwrap().to_le_bytes());
        path.extend(data);
    }
    let mut option = vec![1, 0, 0, 0];
    option.extend(u16::try_from(path.len()).unwrap().to_le_bytes());
    option.extend(utf16(label));
    option.extend(path);
    option
}

/// The nodes that `efibootmgr -v` of version 18 shows for Debian's entry as
/// `dp: 04 01 2a 00 01 00 00 00 00 08 00 00 ... / 04 04 34 00 5c 00 45 00 46 00 49 00 ...`.
#[test]
fn firmware_entries_are_read() {
    let guid = uuid::uuid!("028634a6-0b39-4541-b3c7-571f80222a73");
    let mut drive = vec![1, 0, 0, 0];
    drive.extend(2048_u64.to_le_bytes());
    drive.extend(122_880_u64.to_le_bytes());
    drive.extend(guid.to_bytes_le());
    drive.extend([2, 2]);
    let file: Vec<u8> =
        "\\EFI\\debian\\shimx64.efi\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut option = load_option("debian ü", &[(4, 1, drive.clone()), (4, 4, file.clone())]);
    let entry = crate::layout::EfiEntry {
        number: 3,
        label: "debian ü".to_owned(),
        partition: guid,
        path: "\\EFI\\debian\\shimx64.efi".to_owned(),
        active: true,
    };
    assert_eq!(boot::parse_load_option(3, &option).unwrap(), Some(entry.clone()));
    // Optional data behind the path is nobody's business.
    option.extend(b"WINDOWS\x01");
    option[0] = 0;
    let inactive = crate::layout::EfiEntry { active: false, ..entry };
    assert_eq!(boot::parse_load_option(3, &option).unwrap(), Some(inactive));
    let network = load_option("PXE", &[(2, 1, vec![0; 8]), (1, 1, vec![0, 2])]);
    assert_eq!(boot::parse_load_option(0, &network).unwrap(), None);
    for end in 0..option.len() - 8 {
        let _ = boot::parse_load_option(0, &option[..end]);
    }
    assert!(boot::parse_load_option(0, &option[..30]).is_err());
}

#[test]
fn the_network_is_read() {
    let physical = ["eth0".to_owned(), "eth1".to_owned()];
    let found = net::parse_links(&fixture("net/addr.json"), &physical).unwrap();
    let names: Vec<_> = found.net.nic.iter().map(|nic| nic.name.as_str()).collect();
    assert_eq!(names, ["eth0"], "those that are up and hardware");
    let nic = &found.net.nic[0];
    assert_eq!((nic.mac.as_str(), nic.mtu, nic.dhcp), ("02:fc:00:00:00:01", 1400, false));
    assert_eq!(nic.address, ["192.0.2.2/24", "fd00::2/64"]);
    let routes = net::parse_routes(&fixture("net/route.json")).unwrap();
    assert_eq!(routes.len(), 1, "without those of the kernel");
    assert_eq!((routes[0].to.as_str(), routes[0].via.as_deref()), ("default", Some("192.0.2.1")));
    // As iproute2 6.1 prints one over several ways.
    let text = r#"[{"dst":"default","protocol":"static","metric":100,"flags":[],"nexthops":[
        {"via":{"family":"inet6","host":"fe80::2"},"dev":"eth3","weight":1,"flags":[]},
        {"gateway":"10.0.0.9","dev":"eth2","weight":1,"flags":["dead","linkdown"]},
        {"gateway":"10.0.0.2","dev":"eth0","weight":1,"flags":[]},
        {"gateway":"10.0.0.3","dev":"eth1","weight":2,"flags":[]}]}]"#;
    let routes = net::parse_routes(text).unwrap();
    let [route] = &routes[..] else { panic!("{routes:?}") };
    assert_eq!((route.nic.as_str(), route.via.as_deref()), ("eth0", Some("10.0.0.2")));
    let (dns, search) = net::parse_resolv_conf(
        "# by hand\nsearch a.example b.example\nnameserver 10.0.0.1\nnameserver fe80::1%eth0\n\
         nameserver bad\noptions edns0\n",
    );
    assert_eq!(dns, ["10.0.0.1", "fe80::1%eth0"]);
    assert_eq!(search, ["a.example", "b.example"]);
}

#[test]
fn what_leads_to_the_world_and_does_not_come_back_is_told() {
    let links = r#"[
        {"ifname":"eth0","flags":["UP"],"mtu":1500,"link_type":"ether","addr_info":[]},
        {"ifname":"ib0","flags":["UP"],"mtu":2044,"link_type":"infiniband",
         "addr_info":[{"local":"192.0.2.9","prefixlen":24,"scope":"global"}]},
        {"ifname":"ib1","flags":["UP"],"mtu":2044,"link_type":"infiniband","addr_info":[]},
        {"ifname":"mv0","link":"eth0","flags":["UP"],"mtu":1500,"link_type":"ether",
         "linkinfo":{"info_kind":"macvlan"},
         "addr_info":[{"local":"192.0.2.2","prefixlen":24,"scope":"global"}]}]"#;
    let physical = ["eth0", "ib0", "ib1"].map(str::to_owned);
    let mut found = net::parse_links(links, &physical).unwrap();
    let routes = r#"[
        {"dst":"default","gateway":"192.0.2.1","dev":"mv0","flags":[]},
        {"dst":"default","gateway":"192.0.2.1","dev":"mv0","metric":9,"flags":[]},
        {"dst":"10.0.0.0/8","dev":"docker0","flags":[]},
        {"dst":"10.1.0.0/16","gateway":"192.0.2.3","dev":"ib0","flags":[]}]"#;
    found.take_routes(net::parse_routes(routes).unwrap());
    let told: Vec<_> = found.notes.iter().map(|(what, why)| format!("{what}: {why}")).collect();
    assert_eq!(
        told,
        [
            "network interface ib0: its link is infiniband, and the rescue system brings up Ethernet",
            "network interface mv0: a default route leads through it, and the rescue system does not bring it up",
        ]
    );
    assert_eq!(found.net.route.len(), 1);
}

#[test]
fn an_address_by_dhcp_of_ipv6_alone_is_kept() {
    let read = |more: &str| {
        let text = format!(
            r#"[{{"ifname":"eth0","flags":["UP"],"mtu":1500,"addr_info":[{more}
                {{"local":"fd00::9","prefixlen":128,"scope":"global","dynamic":true}}]}}]"#
        );
        let found = net::parse_links(&text, &["eth0".to_owned()]).unwrap();
        (found.net.nic[0].slaac, found.net.nic[0].address.clone())
    };
    assert_eq!(read(""), (false, vec!["fd00::9/128".to_owned()]));
    let by_router = r#"{"local":"fd00::aa","prefixlen":64,"scope":"global","dynamic":true},"#;
    assert_eq!(read(by_router), (true, vec![]));
}

#[test]
fn bonds_vlans_and_bridges_are_read_with_what_they_rest_on() {
    let physical = ["eth0".to_owned(), "eth1".to_owned()];
    let found = net::parse_links(&fixture("net/bond.json"), &physical).unwrap();
    assert_eq!(found.notes, []);
    let said: Vec<String> = (found.net.link.iter())
        .map(|link| format!("{:?} {} on {}", link.kind, link.name, link.over.join(" ")))
        .collect();
    assert_eq!(
        said,
        ["Bond bond0 on eth0 eth1", "Vlan bond0.5 on bond0", "Bridge br0 on bond0.5"],
        "what they rest on comes before"
    );
    let option = |at: usize, name: &str| found.net.link[at].option[name].as_str();
    assert_eq!((option(0, "mode"), option(0, "miimon")), ("802.3ad", "100"));
    assert_eq!((option(0, "lacp_rate"), option(0, "xmit_hash_policy")), ("fast", "layer3+4"));
    assert_eq!(
        (option(1, "id"), option(1, "protocol"), option(2, "stp_state")),
        ("5", "802.1Q", "0")
    );
    assert_eq!((found.net.link[0].mtu, found.net.link[0].address.len()), (9000, 0));
    assert_eq!(found.net.link[2].address, ["10.9.5.2/24", "fd00:5::2/64"]);
    // The bond's ports show its address; each has kept its own.
    assert_ne!(found.net.nic[0].mac, found.net.nic[1].mac);
    // Of a container's bridge, which rests on no hardware, nothing is recorded.
    let none = net::parse_links(&fixture("net/bond.json"), &[]).unwrap();
    assert_eq!((none.net.link.len(), none.notes.len()), (0, 0));
}

#[test]
fn the_machine_that_runs_this_can_be_read() {
    let ui = Ui::new(crate::ui::Style::Plain);
    let layout = read(&ui).unwrap();
    assert!(!layout.node.kernel.is_empty());
    assert!(!layout.boot.kernel_cmdline.is_empty());
    let text = crate::layout::schema::render(&layout).unwrap();
    assert_eq!(crate::layout::schema::parse(&text).unwrap(), layout);
}

#[test]
fn a_btrfs_is_read_with_its_devices_profiles_and_subvolumes() {
    let text = |name: &str| fixture(&format!("debian12/btrfs.{name}"));
    let mut found = btrfs::parse_super(&text("super")).unwrap();
    assert_eq!((found.node_bytes, found.sector_bytes, found.devices), (16_384, 4096, 2));
    assert_eq!(found.checksum, "crc32c");
    let features = ["free_space_tree", "extended_iref", "skinny_metadata", "no_holes"];
    assert!(features.iter().all(|f| found.features.iter().any(|g| g == f)), "{found:?}");
    assert!(!found.features.iter().any(|f| f == "written"), "a flag of another kind");
    let both = vec![("/dev/loop0".to_owned(), 314_572_800), ("/dev/loop1".to_owned(), 314_572_800)];
    assert_eq!(btrfs::parse_show(&text("show")), both);
    assert_eq!(btrfs::parse_show(&text("show.degraded")), both[..1]);
    let raid1 = Some(("raid1".to_owned(), "raid1".to_owned()));
    assert_eq!(btrfs::parse_df(&text("df")), raid1);
    assert_eq!(btrfs::parse_chunks(&text("chunks")), raid1);
    let mixed = btrfs::parse_df(
        "System, DUP: total=8388608, used=4096\nData+Metadata, DUP: total=67108864, used=1\n",
    );
    assert_eq!(mixed, Some(("dup".to_owned(), "dup".to_owned())));
    btrfs::read_subvolumes(&mut found, &text("subvolumes"), &text("default"));
    let paths = |of: &[crate::layout::Subvolume]| -> Vec<(String, u64)> {
        of.iter().map(|s| (s.path.to_string(), s.id)).collect()
    };
    let own = |path: &str, id: u64| (path.to_owned(), id);
    assert_eq!(
        paths(&found.subvolume),
        [
            own("@", 256),
            own("@/.snapshots", 259),
            own("@/lib/x/ports", 261),
            own("@/var", 258),
            own("@home", 257)
        ]
    );
    assert_eq!(paths(&found.snapshot), [own("@/.snapshots/1/snapshot", 260)]);
    assert_eq!(found.default_subvolume.clone().unwrap().as_path(), Path::new("@"));
    // One that is mounted is what the machine lives in.
    btrfs::keep_lived_in(&mut found, &|path| path == Path::new("@/.snapshots/1/snapshot"));
    assert!(found.snapshot.is_empty() && found.subvolume.len() == 6);
}

#[test]
fn luks_headers_are_read() {
    let on = Id::partition("sda3");
    let read =
        |name: &str| luks::parse(&fixture(&format!("debian12/luksDump.{name}")), &on).unwrap();
    let old = read("luks1");
    assert_eq!((old.version, old.cipher.as_str(), old.key_bits), (1, "aes-xts-plain64", 512));
    assert_eq!(
        (old.hash.as_str(), old.data_offset_bytes, old.sector_bytes),
        ("sha256", 2 << 20, 512)
    );
    assert_eq!((old.keyslots.as_slice(), old.pbkdf.iterations), ([0, 1].as_slice(), 3_061_534));
    assert_eq!(old.uuid, "f6f1f77d-3dbe-4a98-92cf-cc17fe9cfee4");
    let new = read("luks2");
    assert_eq!((new.version, new.cipher.as_str(), new.key_bits), (2, "aes-xts-plain64", 512));
    assert_eq!((new.label.as_str(), new.subsystem.as_str()), ("data", "sub"));
    assert_eq!(
        (new.hash.as_str(), new.data_offset_bytes, new.sector_bytes),
        ("sha256", 16 << 20, 4096)
    );
    assert_eq!((new.metadata_bytes, new.keyslots_bytes), (Some(16_384), Some(16_744_448)));
    let pbkdf = crate::layout::Pbkdf {
        kind: "argon2id".to_owned(),
        iterations: 4,
        memory_kib: Some(65_536),
        threads: Some(2),
    };
    assert_eq!(new.pbkdf, pbkdf);
    assert_eq!(new.keyslots, [0, 1]);
    assert_eq!(new.tokens, ["luks2-keyring"]);
    assert!(new.flags.is_empty());
    // The first slot is Clevis's, with a quick function; the second is the passphrase's.
    let bound = read("luks2-clevis");
    assert_eq!((bound.pbkdf.clone(), bound.keyslots.as_slice()), (pbkdf, [1, 0].as_slice()));
    let text = fixture("debian12/luksDump.luks2-clevis");
    let slow = text.replace("Iterations: 1000", "Iterations: 250000");
    assert_eq!(luks::parse(&slow, &on).unwrap().keyslots, [1, 0], "a token's, whatever it costs");
    // Without the token it is a key file's.
    let bare = text.replace("0: clevis\n\tKeyslot:    0", "");
    assert_eq!(luks::parse(&bare, &on).unwrap().pbkdf, bound.pbkdf);
    // GRUB, which reads pbkdf2 alone, may open the first.
    let slow = bare.replace("Iterations: 1000", "Iterations: 250000");
    assert_eq!(luks::parse(&slow, &on).unwrap().pbkdf.iterations, 250_000);
    let unbound = slow.replace("  0: luks2\n", "  0: luks2 (unbound)\n");
    assert_eq!(luks::parse(&unbound, &on).unwrap().pbkdf.kind, "argon2id");
    assert!(luks::parse("Device x is not a valid LUKS device.", &on).is_err());
}

#[test]
fn thin_cached_and_mirrored_volumes_are_read() {
    let found = lvm::parse(&fixture("debian12/fullreport.complex.json"), &|path| {
        Some(Id::disk(path.strip_prefix("/dev/")?))
    })
    .unwrap();
    let volumes: Vec<_> = found.lv.iter().map(|lv| (lv.name.as_str(), lv.kind.as_str())).collect();
    assert_eq!(
        volumes,
        [
            ("lin", "linear"),
            ("linsnap", "snapshot"),
            ("mir", "mirror"),
            ("pool", "thin-pool"),
            ("r1", "raid1"),
            ("r5", "raid5"),
            ("slow", "cache"),
            ("t1", "thin"),
            ("t1snap", "thin"),
        ]
    );
    let lv = |name: &str| found.lv.iter().find(|lv| lv.name == name).unwrap();
    let pool = crate::layout::ThinPool {
        metadata_bytes: 4 << 20,
        chunk_bytes: 128 << 10,
        discards: "nopassdown".to_owned(),
        zero: true,
        spare: true,
    };
    assert_eq!(lv("pool").thin_pool, Some(pool));
    assert_eq!(lv("pool").segment[0].on, ["disk:ubdb:19-28"]);
    assert_eq!(lv("slow").segment[0].on, ["disk:ubdc:13-18"], "the volume below the cache");
    assert_eq!((lv("t1").pool.as_str(), lv("t1").size_bytes), ("pool", 100 << 20));
    assert!(!lv("t1").is_snapshot() && !lv("lin").is_snapshot());
    assert!(lv("t1snap").is_snapshot() && lv("linsnap").is_snapshot());
    assert!(found.notes.is_empty(), "{:?}", found.notes);
}
