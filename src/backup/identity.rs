//! Whose tree it is.
//!
//! node001.a and node001.b are both node001 up to the first dot, and would share a tree without
//! anybody knowing: each would keep and delete the other's generations. So a tree holds
//! `machine.json`, which says what machine backs up to it, and another one is refused. Of three
//! things two must be as they were, the host name, the machine id and the firmware's UUID (of two that
//! are known, one): so a node stays the same when it is recovered onto other hardware, installed anew,
//! or renamed. It is beside the generations and not in them, so that any rr can read those. A tree
//! without it, of an older rr, is this machine's from now on.
//!
//! Where `backup.shared_node` says that two machines share a tree on purpose, the file names one of
//! them, and stays as it is.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::probe::node;
use crate::store::lock::LockGuard;
use crate::store::name::OWNER as NAME;
use crate::store::{Store, StoreError};
use crate::ui::Ui;

const VERSION: u32 = 1;
/// The machine id itself is not for others to know, see machine-id(5).
const CONTEXT: &str = "rr 2026-11-22 identity of a machine";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Machine {
    version: u32,
    /// As the kernel has it, with what comes after the first dot.
    host: String,
    /// Made from `/etc/machine-id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    machine: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    product_uuid: Option<Uuid>,
}

impl Machine {
    fn here() -> Machine {
        Machine {
            version: VERSION,
            host: node::read().hostname,
            machine: node::machine_id().map(|id| {
                let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
                hasher.update(id.as_bytes()).finalize().to_hex()[..32].to_owned()
            }),
            product_uuid: node::product_uuid(),
        }
    }

    /// For people.
    fn shown(&self) -> String {
        let uuid = self.product_uuid.map_or("none".into(), |uuid| uuid.to_string());
        format!("{} (UUID of the firmware: {uuid})", self.host)
    }

    /// Whether both are one machine. Only what both know counts (containers and some boards have no
    /// UUID). One thing may have changed, as a host name or a machine id does, but not all.
    fn is(&self, other: &Machine) -> bool {
        let known = [
            Some(self.host == other.host),
            same(self.machine.as_ref(), other.machine.as_ref()),
            same(self.product_uuid.as_ref(), other.product_uuid.as_ref()),
        ];
        let known: Vec<bool> = known.into_iter().flatten().collect();
        known.iter().filter(|same| **same).count() >= (known.len() - 1).max(1)
    }
}

fn same<T: PartialEq>(one: Option<T>, other: Option<T>) -> Option<bool> {
    Some(one? == other?)
}

/// Refuses a tree that another machine backs up to, unless it is `shared`.
pub(super) fn check(store: &dyn Store, shared: bool) -> Result<()> {
    look(store, &Machine::here(), shared).map(drop)
}

/// As [`check`], and says whose the tree is from now on. Under the lock: two that come at once to a
/// new tree don't both have it.
pub(super) fn claim(guard: &LockGuard, shared: bool, ui: &Ui) -> Result<()> {
    let (store, here) = (guard.store(), Machine::here());
    match look(store, &here, shared)? {
        Found::None => {}
        Found::Machine(found) if found == here => return Ok(()),
        Found::Machine(found) => ui.warn(format!(
            "this machine is recorded anew: it was {}, and is {}; two machines must not back up to one tree",
            found.shown(),
            here.shown()
        )),
        Found::Sharing(found) => {
            ui.info(format!("{} is shared with {} (backup.shared_node)", store.url(), found.host));
            return Ok(());
        }
        Found::Newer => return Ok(()),
        Found::Damaged => ui.warn(format!(
            "{NAME} of {} is damaged and is written anew: was the tree another machine's?",
            store.url()
        )),
    }
    let text = serde_json::to_string_pretty(&here).context("writing the identity as JSON")? + "\n";
    store.put(NAME, text.as_bytes()).with_context(|| format!("storing {NAME}"))
}

#[derive(Debug)]
enum Found {
    None,
    /// It is this one, or it was.
    Machine(Machine),
    /// It is another one, which may.
    Sharing(Machine),
    /// A later rr wrote it.
    Newer,
    Damaged,
}

fn look(store: &dyn Store, here: &Machine, shared: bool) -> Result<Found> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let bytes = match store.get(NAME) {
        Ok(bytes) => bytes,
        Err(StoreError::NotFound { .. }) => return Ok(Found::None),
        Err(error) => return Err(error).context("looking whose the tree is"),
    };
    if serde_json::from_slice(&bytes).is_ok_and(|found: Versioned| found.version > VERSION) {
        return Ok(Found::Newer);
    }
    let Ok(found) = serde_json::from_slice::<Machine>(&bytes) else { return Ok(Found::Damaged) };
    // Where two share it, one that differs a little may be the other one as well.
    if found == *here || (found.is(here) && !shared) {
        return Ok(Found::Machine(found));
    }
    if !shared {
        bail!(
            "{} holds the backups of another machine, {} ({NAME} says so)\nhint: give this one a tree of its own, by node = \"NAME\" in rr.toml or --node NAME; if it is the same node, with a new system on new hardware, delete {NAME} there; if both share the name on purpose, set backup.shared_node = true on both",
            store.url(),
            found.host
        );
    }
    Ok(Found::Sharing(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(host: &str, id: Option<&str>, uuid: Option<u128>) -> Machine {
        Machine {
            version: VERSION,
            host: host.into(),
            machine: id.map(str::to_owned),
            product_uuid: uuid.map(Uuid::from_u128),
        }
    }

    #[test]
    fn two_of_three_say_which_machine_it_is() {
        let own = machine("node001.a", Some("i"), Some(1));
        for same in [
            own.clone(),
            machine("node001.a", Some("i"), Some(2)), // recovered onto other hardware
            machine("node001.a", Some("j"), Some(1)), // installed anew
            machine("node001.b", Some("i"), Some(1)), // renamed
            machine("node001.a", Some("i"), None),
            machine("node001.a", None, None),
            machine("node001.a", Some("j"), None), // a board without a UUID, installed anew
            machine("0123456789ab", None, Some(1)), // a container on this host
        ] {
            assert!(own.is(&same) && same.is(&own), "{same:?}");
        }
        for other in [
            machine("node001.b", Some("j"), Some(2)),
            machine("node001.a", Some("j"), Some(2)), // the same short name
            machine("node001.b", Some("i"), Some(2)), // a clone of the disk
            machine("node001.b", Some("j"), None),
            machine("node001.b", None, Some(2)),
            machine("node001.b", None, None),
        ] {
            assert!(!own.is(&other) && !other.is(&own), "{other:?}");
        }
    }

    #[test]
    fn the_machine_id_is_not_told() {
        let id = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
        let here = serde_json::to_string(&Machine::here()).unwrap();
        assert!(id.trim().is_empty() || !here.contains(id.trim()), "{here}");
    }
}
