//! A rescue image is built on a node and read back by other programs. On a machine without a kernel
//! in /boot (a container) that can't be, and the test says so.

use rr::config::Config;
use rr::rescue::{self, BuildRequest, RescueInfo};
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
    let request = BuildRequest { layout: &layout, config: &config, info: info(), out };
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
