//! A rescue image is built on a node and read back by other programs. On a machine without a kernel
//! in /boot (a container) that can't be, and the test says so.

#[path = "node/image.rs"]
mod image;
#[path = "node/iso.rs"]
mod iso;

use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use rr::archive::{self, ExtractOptions};
use rr::backup::{self, Options};
use rr::config::{Config, TargetOptions, TargetUrl};
use rr::rescue::carried::Carried;
use rr::rescue::{self, BuildRequest, RescueInfo};
use rr::store::{self, Access, Manifest, Store, catalog};
use rr::sys::run::Cmd;
use rr::ui::{Style, Ui};

fn info() -> RescueInfo {
    RescueInfo {
        version: rescue::info::VERSION,
        node: "node001".into(),
        target: std::env::var("RR_TEST_TARGET").unwrap_or("file:///srv/backup".into()),
        rr: env!("CARGO_PKG_VERSION").into(),
        consoles: Vec::new(),
        cmdline: std::env::var("RR_TEST_CMDLINE").unwrap_or_default(),
        asks_login: false,
        target_options: rr::config::TargetOptions::default(),
        read_login: Default::default(),
        target_device: None,
        medium: None,
        product_uuid: None,
    }
}

/// `RR_TEST_KEEP=DIR` keeps the image there.
#[test]
fn loop_an_image_is_built_and_others_can_read_it() {
    let text = include_str!("fixtures/rescue/layout.toml");
    let layout = rr::layout::schema::parse(text).unwrap();
    let mut config = Config::default();
    // The rr in this image is the program that runs these tests.
    config.rescue.rehearse = false;
    let missing = rescue::missing(&layout, &config);
    if !missing.is_empty() {
        eprintln!("skipped: {}", missing.join("\n"));
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let keep = std::env::var_os("RR_TEST_KEEP");
    let out = keep.as_ref().map_or(scratch.path(), |dir| std::path::Path::new(dir));
    let ui = Ui::new(Style::Plain);
    rr::ui::log::start(true);
    let request =
        BuildRequest { layout: &layout, config: &config, info: info(), out, carried: None };
    let built = rescue::build(&request, &["mkfs.xfs", "mkfs.ext4"], &ui);
    if keep.is_some() {
        rr::ui::log::to_file(&out.join("rr.log")).unwrap();
    }
    let image = built.unwrap();

    let torito = Cmd::new("xorriso")
        .arg("-indev")
        .arg(image.iso.unwrap())
        .args(["-report_el_torito", "plain", "-pvd_info", "-find", "/rr"])
        .text()
        .unwrap();
    for word in ["RR_NODE001", "'/rr/kernel'", "'/rr/initrd'", "El Torito boot img"] {
        assert!(torito.contains(word), "{word} not in {torito}");
    }
    let list = Cmd::new("lsinitramfs").arg(&image.initrd).output();
    if let Ok(list) = list.map(|output| output.text()) {
        for name in ["init", "usr/bin/rr", "etc/rr/files.b3", "etc/rr/layout.toml"] {
            assert!(list.lines().any(|line| line == name), "{name} is not in the initrd");
        }
    }
}

/// A directory in which ISOs are made, with a backup of the machine before and after `file` changed.
fn two_generations(dir: &Path) -> (Box<dyn Store>, TargetUrl) {
    let (tree, target) = (dir.join("tree"), dir.join("iso = the target"));
    for dir in [&tree, &target] {
        std::fs::create_dir(dir).unwrap();
    }
    let url: TargetUrl = format!("iso://{}", target.display()).parse().unwrap();
    let config = Config {
        target: Some(url.to_string()),
        node: Some("node001".to_owned()),
        ..Config::default()
    };
    let options = Options { archive: true, include: vec![tree.clone()], ..Options::default() };
    let open = || store::open(&url, "node001", Access::Write, &TargetOptions::default()).unwrap();
    for seed in [1, 2_u8] {
        let mut noise = vec![0; 3 << 20];
        blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut noise);
        std::fs::write(tree.join("file"), noise).unwrap();
        let ui = Ui::new(Style::Plain);
        assert_eq!(backup::backup(&config, &options, &ui).unwrap().failed, None);
        assert!(ui.warnings().iter().any(|said| said.contains("the ISO stays as it is")));
        image::of_machine(open().as_ref());
        let killed = target.join("node001/rr-node001.iso.12345678-4194305-0123abcd.part");
        match seed {
            1 => std::fs::write(killed, "half an ISO").unwrap(),
            _ => assert!(!killed.exists(), "what a killed run left is swept"),
        }
    }
    (open(), url)
}

#[test]
fn a_backup_is_on_its_iso_as_it_was_or_the_iso_is_refused() {
    if let Some(why) = iso::missing() {
        eprintln!("skipped: {why}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (store, url) = two_generations(dir.path());
    let tree = url.dir().unwrap().join("node001");
    let file = tree.join("rr-node001.iso");
    let made = iso::make(store.as_ref(), tree.clone(), file.clone(), &info()).unwrap();
    let ui = Ui::new(Style::Plain);
    made.check(&ui).unwrap();
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);

    // It holds what the one generation needs, as a target of its own.
    let out = dir.path().join("out");
    let extract = Cmd::new("xorriso").args(["-osirrox", "on", "-indev"]).arg(&file);
    extract.args(["-extract", "/rr/backup"]).arg(&out).run().unwrap();
    let copy = TargetUrl::File { dir: out };
    let copy = store::open(&copy, "node001", Access::Read, &TargetOptions::default()).unwrap();
    let manifest = catalog::find_machine(store.as_ref(), None).unwrap();
    assert_eq!(catalog::generations(copy.as_ref()).unwrap().len(), 1);
    assert_eq!(catalog::manifest(copy.as_ref(), &manifest.generation).unwrap(), manifest);
    let packs = |store: &dyn Store| store.list("packs/").unwrap().len();
    assert_eq!(packs(copy.as_ref()), manifest.pack.len());
    assert!(packs(store.as_ref()) > manifest.pack.len(), "the first generation's are not needed");
    let to = dir.path().join("restored");
    let options = ExtractOptions { root: to.clone(), ..ExtractOptions::default() };
    std::fs::create_dir(&to).unwrap();
    archive::extract(&manifest, copy.as_ref(), &options, &ui).unwrap();
    let original = dir.path().join("tree/file");
    let restored = to.join(original.strip_prefix("/").unwrap());
    assert!(std::fs::read(original).unwrap() == std::fs::read(restored).unwrap());
    let modes =
        Cmd::new("xorriso").arg("-indev").arg(&file).args(["-find", "/rr", "-exec", "lsdl"]);
    let modes = modes.text().unwrap();
    assert!(
        modes.lines().all(|line| !line.contains("'/rr") || line[4..].starts_with("------")),
        "{modes}"
    );

    let places = Cmd::new("xorriso").arg("-indev").arg(&file);
    let places = places.args(["-find", "/rr", "-type", "f", "-exec", "report_lba"]).text().unwrap();
    let start = |name: &str| {
        let lines = places.lines().filter(|line| line.contains(name));
        lines.filter_map(|line| line.split(',').nth(1)?.trim().parse::<u64>().ok()).min().unwrap()
    };
    assert!(start("'/rr/initrd'") < start("/packs/"), "what boots comes first: {places}");

    // One wrong bit of a pack, and one of the manifest.
    let whole = std::fs::read(&file).unwrap();
    let on_disk = std::fs::File::options().write(true).open(&file).unwrap();
    let names = [&manifest.pack[0].name, &catalog::object(&manifest.generation, "manifest.json")];
    for name in names {
        let content = std::fs::read(tree.join(name)).unwrap();
        let sample = &content[content.len() / 2..][..100];
        let at = whole.windows(sample.len()).position(|window| window == sample).unwrap();
        on_disk.write_all_at(&[whole[at] ^ 1], at as u64).unwrap();
        let said = format!("{:#}", made.check(&ui).unwrap_err());
        assert!(said.starts_with(name.as_str()) && said.contains("BLAKE3"), "{said}");
        on_disk.write_all_at(&whole[at..=at], at as u64).unwrap();
    }
    made.check(&ui).unwrap();
    on_disk.set_len(whole.len() as u64 / 2).unwrap();
    assert!(made.check(&ui).is_err(), "cut off");
}

#[test]
fn what_can_not_be_on_an_iso_is_refused_before_one_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let (store, url) = two_generations(dir.path());
    let tree = url.dir().unwrap().join("node001");
    let mut manifest = catalog::find_machine(store.as_ref(), None).unwrap();
    let new =
        |manifest: &Manifest| Carried::new(manifest, tree.clone(), tree.join("rr-node001.iso"));
    let said = |result: anyhow::Result<()>| format!("{:#}", result.unwrap_err());
    new(&manifest).unwrap().check_room(0).unwrap();
    let text = said(new(&manifest).unwrap().check_room(1 << 60));
    assert!(text.contains("needs 1.0 EiB") && text.contains("hint: make room"), "{text}");
    manifest.pack[0].size_bytes = 2 << 30;
    let text = said(new(&manifest).map(drop));
    assert!(text.contains("2.0 GiB") && text.contains("another kind of target"), "{text}");
}
