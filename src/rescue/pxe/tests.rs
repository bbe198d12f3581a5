use super::*;
use crate::config::{Config, TargetOptions};
use crate::rescue::RescueInfo;

struct Lab {
    dir: tempfile::TempDir,
    tree: Tree,
    config: Config,
    secure_boot: bool,
}

fn lab() -> Lab {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config {
        target: Some(format!("file://{}", dir.path().display())),
        node: Some("node001".into()),
        ..Config::default()
    };
    config.pxe.http = Some("http://172.16.1.5/pxe/".into());
    let tree = Tree::open(&config).unwrap();
    Lab { dir, tree, config, secure_boot: false }
}

impl Lab {
    fn publish(&self, node: &str, names: &[&str], kernel: &str) -> Vec<String> {
        let info = RescueInfo {
            version: crate::rescue::info::VERSION,
            node: node.into(),
            target: "nfs://s/x".into(),
            rr: "0".into(),
            consoles: Vec::new(),
            cmdline: String::new(),
            asks_login: false,
            target_options: TargetOptions::default(),
            read_login: crate::config::Login::default(),
            target_device: None,
            medium: None,
            product_uuid: None,
        };
        let mut layout = crate::rescue::tests::layout();
        layout.boot.secure_boot = self.secure_boot;
        let menu = Menu {
            layout: &layout,
            config: &self.config,
            info: &info,
            id: "",
            size_mib: 40,
            font: "",
        };
        let (kernel_file, initrd) = (self.dir.path().join("k"), self.dir.path().join("i"));
        std::fs::write(&kernel_file, kernel).unwrap();
        std::fs::write(&initrd, "initrd").unwrap();
        let names = Names(names.iter().map(|&name| name.to_owned()).collect());
        let content = Content { menu: &menu, kernel: &kernel_file, initrd: &initrd, names };
        publish(&self.tree, &content).unwrap()
    }

    fn text(&self, name: &str) -> String {
        String::from_utf8(self.tree.get(name).unwrap().unwrap()).unwrap()
    }

    /// What a node's menus boot.
    fn kernel(&self, node: &str) -> String {
        let file = read_node(&self.tree, node).unwrap().unwrap();
        for kind in Kind::ALL {
            let menu = self.text(&format!("nodes/{node}/menu.{}", kind.suffix()));
            assert!(menu.contains(&file.image), "{kind:?}: {menu}");
        }
        self.text(&format!("nodes/{node}/{}/kernel", file.image))
    }
}

#[test]
fn many_nodes_share_a_tree_and_a_new_image_replaces_only_its_own() {
    let lab = lab();
    lab.publish("node001", &["01-aa", "node001"], "one");
    lab.publish("node002", &["01-bb", "node002"], "two");
    for times in ["three", "four", "five"] {
        lab.publish("node001", &["01-cc", "node001"], times);
        assert_eq!(lab.kernel("node001"), times);
    }
    assert_eq!(lab.kernel("node002"), "two");
    for kind in Kind::ALL {
        let menu = lab.text(kind.all());
        assert!(menu.contains("node001") && menu.contains("node002"), "{menu}");
        assert!(lab.text(&kind.named("01-bb")).contains("nodes/node002/menu."));
        assert!(lab.text(&kind.named("01-cc")).contains("nodes/node001/menu."));
        assert_eq!(lab.tree.get(&kind.named("01-aa")).unwrap(), None, "an old name is left");
    }
    let images = lab.tree.list("nodes/node001").unwrap();
    let images = images.iter().filter(|name| name.starts_with(IMAGE)).count();
    assert_eq!(images, 2, "this one, and the one that a machine may be booting");
}

#[test]
fn a_name_that_was_another_nodes_is_taken_over_and_told() {
    let lab = lab();
    lab.publish("node001", &["01-aa"], "one");
    let said = lab.publish("node002", &["01-aa"], "two");
    assert!(said.iter().any(|line| line.contains("01-aa")), "{said:?}");
    lab.publish("node001", &["01-bb"], "one");
    // node001 no longer has it; it is node002's and stays.
    assert!(lab.text("pxelinux.cfg/01-aa").contains("node002"));
}

#[test]
fn a_run_that_was_killed_leaves_the_old_menus_and_is_swept() {
    let lab = lab();
    lab.publish("node001", &["01-aa"], "one");
    // Killed after the image, before the menus.
    lab.tree.put("nodes/node001/image-20990101T000000Z-dead/kernel", b"half").unwrap();
    let part = crate::store::name::Tag::own().part_name("menu.grub");
    std::fs::write(lab.dir.path().join("pxe/nodes/node001").join(&part), "half").unwrap();
    assert_eq!(lab.kernel("node001"), "one");
    lab.publish("node001", &["01-aa"], "two");
    assert_eq!(lab.kernel("node001"), "two");
    assert!(!lab.tree.has("nodes/node001/image-20990101T000000Z-dead"));
    assert!(!lab.dir.path().join("pxe/nodes/node001").join(part).exists());
}

#[test]
fn a_directory_with_other_peoples_files_is_left_alone() {
    let lab = lab();
    std::fs::create_dir_all(lab.dir.path().join("pxe/pxelinux.cfg")).unwrap();
    let error = format!("{:#}", lab.tree.make().unwrap_err());
    assert!(error.contains("pxelinux.cfg") && error.contains("pxe.tree"), "{error}");
    assert!(!lab.tree.has("rr-pxe.toml"));
}

#[test]
fn an_image_with_a_login_in_it_is_not_put_where_everybody_reads() {
    let mut lab = lab();
    check(&lab.config).unwrap();
    lab.config.target_options.read_login.user = Some("reader".into());
    let error = check(&lab.config).unwrap_err().to_string();
    assert!(error.contains("read_login"), "{error}");
}

#[test]
fn servers_can_read_what_is_in_the_tree() {
    use std::os::unix::fs::PermissionsExt;
    let lab = lab();
    lab.publish("node001", &["01-aa"], "one");
    for entry in walkdir::WalkDir::new(lab.dir.path().join("pxe")) {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        let wanted = if entry.file_type().is_dir() { 0o755 } else { 0o644 };
        assert_eq!(mode, wanted, "{}", entry.path().display());
    }
}

#[test]
fn menus_boot_from_the_disk_by_themselves_whatever_is_configured() {
    let mut lab = lab();
    lab.config.rescue.default = crate::config::MenuDefault::Auto;
    lab.publish("node001", &["01-aa"], "one");
    let menu = |kind: Kind| lab.text(&format!("nodes/node001/menu.{}", kind.suffix()));
    assert!(menu(Kind::Grub).contains("\nset default=local\n"));
    assert!(menu(Kind::Ipxe).contains("--default local"));
    assert!(menu(Kind::Pxelinux).contains("\nONTIMEOUT local\n"));
}

#[test]
fn every_word_of_the_templates_is_filled_in() {
    let lab = lab();
    lab.publish("node001", &["01-aa"], "one");
    for entry in walkdir::WalkDir::new(lab.dir.path().join("pxe")) {
        let entry = entry.unwrap();
        let Ok(text) = std::fs::read_to_string(entry.path()) else { continue };
        let left = text.lines().find(|line| line.contains('@') && !line.starts_with('#'));
        assert_eq!(left, None, "{}", entry.path().display());
    }
    let grub = lab.text("nodes/node001/menu.grub");
    assert!(grub.contains("if [ -s \"(http,172.16.1.5)/pxe/nodes/node001/node.toml\" ]"), "{grub}");
}

#[test]
fn http_boot_has_a_loader_that_knows_where_the_menus_are() {
    if crate::rescue::iso::Platforms::find().uefi.is_none() {
        eprintln!("skipped: no GRUB for UEFI (scripts/install-deps installs it)");
        return;
    }
    let mut lab = lab();
    let range = "172.16.1.100,172.16.1.200,255.255.255.0";
    let url = "http://172.16.1.5/pxe";
    let server = dnsmasq::Server { root: "/srv".as_ref(), range, interface: None, http: Some(url) };
    let text = dnsmasq::render(&server);
    assert!(text.contains(&format!("dhcp-boot=tag:http,{url}/httpx64.efi\n")), "{text}");
    assert!(text.contains("\ndhcp-option=3\n"), "it says that it is a router: {text}");
    lab.publish("node001", &["01-aa"], "one");
    let loader = lab.tree.get("httpx64.efi").unwrap().unwrap();
    let early = b"set prefix=(http,172.16.1.5)/pxe/grub\n";
    assert!(loader.windows(early.len()).any(|part| part == early));

    // What is there may be fitted to the server by hand; setup makes it anew.
    lab.tree.put("httpx64.efi", b"mine").unwrap();
    lab.publish("node001", &["01-aa"], "two");
    assert!(lab.tree.get("httpx64.efi").unwrap().unwrap() == b"mine", "it was made anew");
    let done = loaders::replace(&lab.tree, Some("http://10.0.0.1/")).unwrap();
    assert!(done.iter().any(|what| what.contains("HTTP")), "{done:?}");
    let loader = lab.tree.get("httpx64.efi").unwrap().unwrap();
    let early = b"set prefix=(http,10.0.0.1)/grub\n";
    assert!(loader.windows(early.len()).any(|part| part == early));

    lab.config.pxe.http = None;
    lab.tree.remove("httpx64.efi").unwrap();
    lab.publish("node001", &["01-aa"], "three");
    assert!(!lab.tree.has("httpx64.efi"), "nobody could load it");
}

#[test]
fn a_node_with_secure_boot_gets_a_signed_loader_or_is_told() {
    let mut lab = lab();
    lab.tree.make().unwrap();
    lab.tree.put("pxelinux.0", b"bios").unwrap();
    lab.tree.put("bootx64.efi", b"our own").unwrap();
    let told = |warnings: Vec<String>| warnings.iter().any(|text| text.contains("Secure Boot"));
    assert!(!told(lab.publish("node001", &["01-aa"], "one")), "it is off");
    lab.secure_boot = true;
    let told = told(lab.publish("node001", &["01-aa"], "two"));
    // As far as this machine has one.
    assert_eq!(told, !lab.tree.has("grubx64.efi"));

    if lab.tree.has("grubx64.efi") {
        lab.tree.remove("grubx64.efi").unwrap();
    }
    lab.tree.put("bootx64.efi", b"our own").unwrap();
    let text = loaders::add_signed(&lab.tree, None).unwrap().unwrap();
    assert!(text.contains("Secure Boot") && text.contains("hint:"), "{text}");
    let (shim, grub) = (lab.dir.path().join("shim"), lab.dir.path().join("grub"));
    std::fs::write(&shim, "signed shim").unwrap();
    std::fs::write(&grub, "signed grub").unwrap();
    let signed = signed::Signed { shim, grub, key_manager: None };
    assert_eq!(loaders::add_signed(&lab.tree, Some(&signed)).unwrap(), None);
    assert_eq!(lab.text("bootx64.efi") + &lab.text("grubx64.efi"), "signed shimsigned grub");
    assert_eq!(loaders::add_signed(&lab.tree, None).unwrap(), None, "it has one");
}

#[test]
fn grub_and_dnsmasq_understand_what_they_get() {
    use crate::sys::run::Cmd;
    let lab = lab();
    lab.publish("node001", &["01-aa"], "one");
    let root = lab.dir.path().join("pxe");
    let missing = |name: &str| {
        let missing = crate::sys::tools::find(name.as_ref()).is_none();
        if missing {
            eprintln!("skipped: {name} is not installed (scripts/install-deps installs it)");
        }
        missing
    };
    if !missing("grub-script-check") {
        for name in
            ["grub/grub.cfg", "grub/all.cfg", "grub/grub.cfg-01-aa", "nodes/node001/menu.grub"]
        {
            Cmd::new("grub-script-check").arg(root.join(name)).run().unwrap();
        }
    }
    if !missing("dnsmasq") {
        for http in [None, Some("http://172.16.1.5/pxe")] {
            let range = "172.16.1.100,172.16.1.200,255.255.255.0";
            let server = dnsmasq::Server { root: &root, range, interface: Some("lo"), http };
            let file = lab.dir.path().join("dnsmasq.conf");
            std::fs::write(&file, dnsmasq::render(&server)).unwrap();
            let test =
                Cmd::new("dnsmasq").arg("--test").arg(format!("--conf-file={}", file.display()));
            test.run().unwrap();
        }
    }
}
