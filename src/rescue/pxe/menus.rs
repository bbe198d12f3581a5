//! What the menus in a tree say, from the templates in `bootloader-assets/`.

use super::NodeFile;
use crate::config::schema::MenuDefault;
use crate::rescue::menu::{Loaders, Menu, TIMEOUT_SECONDS, fill, plain};

const MARK: &str = "Made by rr; changes are lost.";

/// A boot loader with a language of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Grub,
    Ipxe,
    Pxelinux,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Grub, Kind::Ipxe, Kind::Pxelinux];

    /// What ends the name of a node's menu.
    pub fn suffix(self) -> &'static str {
        match self {
            Kind::Grub => "grub",
            Kind::Ipxe => "ipxe",
            Kind::Pxelinux => "pxelinux",
        }
    }

    /// The menu of all nodes.
    pub fn all(self) -> &'static str {
        match self {
            Kind::Grub => "grub/all.cfg",
            Kind::Ipxe => "all.ipxe",
            Kind::Pxelinux => "pxelinux.cfg/default",
        }
    }

    /// The file that a machine of this name finds.
    pub fn named(self, name: &str) -> String {
        match self {
            Kind::Grub => format!("grub/grub.cfg-{name}"),
            Kind::Ipxe => format!("ipxe/{name}"),
            Kind::Pxelinux => format!("pxelinux.cfg/{name}"),
        }
    }
}

/// Files that are the same in every tree: their names and contents.
pub fn fixed() -> [(&'static str, String); 2] {
    let marked = |text: &str| fill(text, &[("MARK", MARK)]);
    [
        ("grub/grub.cfg", marked(include_str!("../../../bootloader-assets/pxe-grub.cfg"))),
        ("boot.ipxe", marked(include_str!("../../../bootloader-assets/pxe-boot.ipxe"))),
    ]
}

/// What leads from a machine's name to the menu of its node.
pub fn pointer(kind: Kind, node: &str) -> String {
    match kind {
        // Some GRUBs find this by themselves, before grub.cfg.
        Kind::Grub => format!(
            "# {MARK}\nregexp --set=1:rr '^(.*)/grub$' \"$prefix\"\nexport rr\n\
             configfile $rr/nodes/{node}/menu.grub\n"
        ),
        Kind::Ipxe => {
            format!("#!ipxe\n# {MARK}\nchain --replace ../nodes/{node}/menu.ipxe\n")
        }
        Kind::Pxelinux => format!("# {MARK}\nINCLUDE nodes/{node}/menu.pxelinux\n"),
    }
}

/// The menu of a node, which boots its image `image`.
pub fn node(kind: Kind, menu: &Menu<'_>, image: &str) -> String {
    let dir = format!("nodes/{}/{image}", menu.info.node);
    let http = menu.config.pxe.http.as_deref();
    let text = match kind {
        Kind::Grub => include_str!("../../../bootloader-assets/pxe-node.cfg"),
        Kind::Ipxe => include_str!("../../../bootloader-assets/pxe-node.ipxe"),
        Kind::Pxelinux => include_str!("../../../bootloader-assets/pxe-node.pxelinux"),
    };
    let date = crate::layout::units::shown_time(&menu.layout.node.recorded);
    let (unit, speed) = menu.serial();
    let text = fill(
        text,
        &[
            ("MARK", MARK),
            ("NODE", &plain(&menu.info.node)),
            ("DATE", &plain(&date)),
            ("SIZE", &menu.size_mib.to_string()),
            ("TIMEOUT", &TIMEOUT_SECONDS.to_string()),
            ("UNIT", &unit.to_string()),
            ("SPEED", &speed.to_string()),
            ("CMDLINE", &menu.cmdline()),
            ("IMAGE", image),
            ("DIR", &dir),
            ("HTTP", &http.map(grub_device).unwrap_or_default()),
            (
                "HTTP_DIR",
                &http
                    .map(|http| format!("{}/{dir}", http.trim_end_matches('/')))
                    .unwrap_or_default(),
            ),
            ("NODE_FILE", &format!("nodes/{}/node.toml", menu.info.node)),
        ],
    );
    match kind {
        Kind::Grub => text + &menu.grub_menu(MenuDefault::Local, Loaders::All) + OTHERS,
        Kind::Ipxe | Kind::Pxelinux => text,
    }
}

const OTHERS: &str = "menuentry \"Other nodes of this server\" --id nodes {\n    \
                      configfile $rr/grub/all.cfg\n}\n";

/// `http://host/dir` is `(http,host)/dir` to GRUB.
pub fn grub_device(url: &str) -> String {
    let url = url.trim_end_matches('/');
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if path.is_empty() { format!("(http,{host})") } else { format!("(http,{host})/{path}") }
}

/// The menu that lists all nodes.
pub fn all(kind: Kind, nodes: &[NodeFile]) -> String {
    let title = |file: &NodeFile| {
        plain(&format!("{}   {}   made {}", file.node, file.os, file.made)).trim().to_owned()
    };
    let item = |file: &NodeFile| match kind {
        Kind::Grub => format!(
            "menuentry \"{}\" {{\n    configfile $rr/nodes/{}/menu.grub\n}}\n",
            title(file),
            file.node
        ),
        Kind::Ipxe => format!("item {} {}\n", file.node, title(file)),
        Kind::Pxelinux => format!(
            "LABEL {0}\n  MENU LABEL {1}\n  KERNEL menu.c32\n  APPEND nodes/{0}/menu.pxelinux\n",
            file.node,
            title(file)
        ),
    };
    let items: String = nodes.iter().map(item).collect();
    let text = match kind {
        Kind::Grub => include_str!("../../../bootloader-assets/pxe-all.cfg"),
        Kind::Ipxe => include_str!("../../../bootloader-assets/pxe-all.ipxe"),
        Kind::Pxelinux => include_str!("../../../bootloader-assets/pxe-all.pxelinux"),
    };
    let timeout = TIMEOUT_SECONDS.to_string();
    fill(text, &[("MARK", MARK), ("TIMEOUT", &timeout), ("ITEMS", &items)])
}
