//! The one question of a recovery.

use std::collections::BTreeSet;

use anyhow::{Result, bail};

use crate::layout::units::size;
use crate::plan::Plan;
use crate::sys::secret::Secret;
use crate::ui::{Ui, ask};

/// Shows what will be erased and asks whether to go on.
///
/// # Errors
/// The admin did not type `yes`.
pub fn confirm(plan: &Plan, ui: &Ui) -> Result<()> {
    ui.info("");
    ui.alarm("ALL DATA ON THESE DISKS WILL BE LOST:");
    for disk in plan.erases() {
        let model = disk.model.as_deref().unwrap_or("unknown model");
        let serial = disk.serial.as_deref().unwrap_or("none");
        let holds = if disk.holds.is_empty() { "blank".to_owned() } else { disk.holds.join(", ") };
        ui.info(format!(
            "  /dev/{}  {model}, serial {serial}, {}: {holds}",
            disk.name,
            size(disk.size_bytes)
        ));
    }
    if !ask::confirm("Erase them and recover this machine?")? {
        bail!("stopped, since the answer was not yes: nothing was changed");
    }
    Ok(())
}

/// What is not as it was when `shown` was agreed to, if anything is: other disks, or something else on
/// them.
pub fn changed(shown: &Plan, now: &Plan) -> Option<String> {
    let gone = shown.disks.iter().filter(|disk| !now.disks.contains(disk));
    let new = now.disks.iter().filter(|disk| !shown.disks.contains(disk));
    let names: BTreeSet<&str> = gone.chain(new).map(|disk| disk.new.name.as_str()).collect();
    let names: Vec<&str> = names.into_iter().collect();
    (!names.is_empty())
        .then(|| format!("since the plan was shown, what is there as {} changed", names.join(", ")))
}

/// Asks for the passphrase of the encrypted volumes, which is a new one to them: twice.
pub fn passphrase(plan: &Plan) -> Result<Secret> {
    let names: Vec<&str> = plan.layout.luks.iter().map(|luks| luks.name.as_str()).collect();
    let ask = |prompt: &str| -> Result<Secret> {
        let answer = ask::hidden(prompt)?;
        Secret::new(answer.unwrap_or_default())
    };
    let first = ask(&format!("Passphrase for {}: ", names.join(", ")))?;
    if first != ask("The same passphrase again: ")? {
        bail!("stopped, since these are two passphrases: nothing was changed");
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::{blank, raid_node};
    use crate::plan::{Answers, plan};

    #[test]
    fn another_disk_than_the_one_that_was_agreed_to_is_told() {
        let node = raid_node();
        let planned = |present| plan(&node, present, &Answers::default()).unwrap();
        let present = blank(&node);
        let shown = planned(&present);
        assert_eq!(changed(&shown, &planned(&present)), None);

        let mut other = present.clone();
        other.disk[1].serial = Some("ANOTHER".into());
        let said = changed(&shown, &planned(&other)).unwrap();
        assert!(said.contains(&format!("as {} changed", other.disk[1].name)), "{said}");

        // The same disk, on which somebody has put something.
        let written = planned(&node);
        assert_eq!(written.disks[0].new.serial, shown.disks[0].new.serial);
        assert!(changed(&shown, &written).is_some());
    }
}
