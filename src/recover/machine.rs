//! Is this the machine that was backed up, and does it start as that one did?

use std::path::Path;

use anyhow::{Context, Result};
use uuid::Uuid;

use crate::layout::Firmware;
use crate::plan::Plan;
use crate::rescue::RescueInfo;

/// The disks that were to be erased since this machine started, one a line.
pub const ERASED: &str = "/run/rr/erased";

/// What shows that this is another machine than `node` was: the UUID that its firmware tells. `info`
/// is what the rescue image knows, `here` the UUID of this machine. Where neither then nor now there
/// is one, nothing speaks against it.
pub fn elsewhere(info: Option<&RescueInfo>, node: &str, here: Option<Uuid>) -> Option<String> {
    // The image of another node knows nothing of this one.
    let info = info.filter(|info| info.node == node);
    match (info.and_then(|info| info.product_uuid), here) {
        (then, here) if then == here => None,
        (Some(then), Some(here)) => {
            Some(format!("the UUID of this machine is {here}, and that of the node was {then}"))
        }
        (Some(then), None) => {
            Some(format!("this machine tells no UUID, and that of the node was {then}"))
        }
        (None, _) => Some("the UUID of the machine that the node was is not known here".into()),
    }
}

/// What [`begin`] left since this machine started.
pub fn begun(file: &Path) -> Result<Vec<String>> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("reading {}", file.display())),
    }
}

/// Remembers which disks are erased, so that the same command can be given again over what it left
/// half done on another machine.
pub fn begin(plan: &Plan, file: &Path) -> Result<()> {
    let mut names = begun(file)?;
    names.extend(plan.erases().into_iter().map(|disk| disk.name));
    names.sort_unstable();
    names.dedup();
    let dir = file.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(dir)
        .and_then(|()| std::fs::write(file, names.join("\n")))
        .with_context(|| format!("writing {}", file.display()))
}

/// Why a machine that runs in the mode `here` would not start what one in the mode `recorded` did.
pub fn other_firmware(recorded: Firmware, here: Firmware) -> Option<String> {
    let mode = |firmware| match firmware {
        Firmware::Bios => "BIOS",
        Firmware::Uefi => "UEFI",
    };
    (recorded != here).then(|| {
        format!(
            "the node starts in {} mode, and this machine runs in {} mode: what comes back would not start in it",
            mode(recorded),
            mode(here)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rescue::menu::tests::info;

    #[test]
    fn another_uuid_is_another_machine_and_none_on_both_sides_is_not() {
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let info = |uuid| RescueInfo { node: "n1".into(), product_uuid: uuid, ..info() };
        let known = info(Some(a));
        assert_eq!(elsewhere(Some(&known), "n1", Some(a)), None);
        assert_eq!(elsewhere(Some(&info(None)), "n1", None), None);
        assert_eq!(elsewhere(None, "n1", None), None);
        for (info, node, here) in [
            (Some(&known), "n1", Some(b)),
            (Some(&known), "n1", None),
            (Some(&known), "n2", Some(a)),
            (Some(&info(None)), "n1", Some(a)),
            (None, "n1", Some(a)),
        ] {
            assert!(elsewhere(info, node, here).is_some(), "{info:?} {node} {here:?}");
        }
    }

    #[test]
    fn what_was_begun_is_remembered() {
        use crate::plan::testing::{blank, raid_node};
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("rr/erased");
        assert_eq!(begun(&file).unwrap(), [""; 0]);
        let node = raid_node();
        let plan = crate::plan::plan(&node, &blank(&node), &crate::plan::Answers::default());
        let plan = plan.unwrap();
        begin(&plan, &file).unwrap();
        begin(&plan, &file).unwrap();
        assert_eq!(begun(&file).unwrap(), ["sda", "sdb"]);
    }

    #[test]
    fn the_mode_of_the_firmware_is_compared() {
        use Firmware::{Bios, Uefi};
        assert_eq!(other_firmware(Uefi, Uefi), None);
        assert_eq!(other_firmware(Bios, Bios), None);
        let text = other_firmware(Uefi, Bios).unwrap();
        assert!(text.starts_with("the node starts in UEFI mode"), "{text}");
        assert!(other_firmware(Bios, Uefi).unwrap().contains("runs in UEFI mode"));
    }
}
