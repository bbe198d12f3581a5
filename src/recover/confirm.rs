//! The one question of a recovery.

use anyhow::{Result, bail};

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
            "  /dev/{}  {model}, serial {serial}, {:.1} GiB: {holds}",
            disk.name,
            gib(disk.size_bytes)
        ));
    }
    if !ask::confirm("Erase them and recover this machine?")? {
        bail!("stopped, since the answer was not yes: nothing was changed");
    }
    Ok(())
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

#[allow(clippy::cast_precision_loss)] // for people
fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}
