//! An ISO that holds the backup itself, and boots nothing.

use std::path::{Path, PathBuf};

use rr::config::Config;
use rr::rescue::RescueInfo;
use rr::rescue::carried::Carried;
use rr::rescue::iso::{Content, Platforms, build};
use rr::rescue::menu::Menu;
use rr::store::{Store, catalog};

/// What it is that the tests lack, where they can't make one.
pub fn missing() -> Option<&'static str> {
    rr::sys::tools::find("xorriso".as_ref()).is_none().then_some("xorriso is not installed")
}

/// Makes `iso` of the newest backup of the machine in `store`, whose tree is `tree`.
pub fn make(
    store: &dyn Store,
    tree: PathBuf,
    iso: PathBuf,
    info: &RescueInfo,
) -> anyhow::Result<Carried> {
    let manifest = catalog::find_machine(store, None)?;
    let layout = catalog::layout(store, &manifest)?;
    let carried = Carried::new(&manifest, tree, iso)?;
    let scratch = tempfile::tempdir()?;
    let file = |name: &str| -> std::io::Result<PathBuf> {
        let path = scratch.path().join(name);
        std::fs::write(&path, name).map(|()| path)
    };
    let (kernel, initrd) = (file("kernel")?, file("initrd")?);
    let menu = Menu {
        layout: &layout,
        config: &Config::default(),
        info,
        id: info.medium.as_deref().unwrap_or("A1"),
        size_mib: 1,
        font: "",
    };
    let carries = Some(&carried);
    let (kernel, initrd): (&Path, &Path) = (&kernel, &initrd);
    let content = Content { menu: &menu, kernel, initrd, font: None, carried: carries };
    let platforms = Platforms { bios: None, uefi: None, signed: None };
    build(&content, &platforms, scratch.path(), &carried.iso)?;
    Ok(carried)
}
