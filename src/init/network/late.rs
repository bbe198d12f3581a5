//! Links that come later than anybody waits for: of a port that negotiates long, or of a cable that is
//! plugged in when the recovery has failed for want of it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::links::is_linked;
use super::obtain;
use super::plan::Setup;

const PAUSE: Duration = Duration::from_secs(1);

/// How often all that is waited for was forgotten.
static FORGOTTEN: AtomicUsize = AtomicUsize::new(0);

/// Sets the interface up when it has a link, while others are used already: a gateway over it is the
/// last one that is taken.
pub(super) fn wait(setup: Setup) {
    let setup = Setup { is_last_gateway: true, ..setup };
    let forgotten = FORGOTTEN.load(Ordering::Relaxed);
    std::thread::spawn(move || {
        let is_wanted = || FORGOTTEN.load(Ordering::Relaxed) == forgotten;
        while !is_linked(&setup.name) {
            std::thread::sleep(PAUSE);
            if !is_wanted() {
                return;
            }
        }
        log::info!("{} has a link now", setup.name);
        if let Err(error) = obtain(&setup, &is_wanted, &|text| log::info!("{text}")) {
            log::warn!("{error:#}");
        }
    });
}

/// What was waited for is not wanted any more.
pub(super) fn forget() {
    FORGOTTEN.fetch_add(1, Ordering::Relaxed);
}
