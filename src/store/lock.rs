//! One writer at a time in a node's tree.
//!
//! A lock is an object `lock-<n>.json`, made by [`Store::claim`]; the highest number holds. It
//! names its [`Owner`] and carries a beat that the owner raises every [`BEAT`]. Who finds a lock:
//!
//! * of a process of this boot: waits for nothing; it holds if the process lives (same start time,
//!   so that a number given again does not count), else it is dead. Where its number was given in
//!   another PID namespace, as containers have them, nobody can look it up: as of another machine.
//! * of another machine: is watched. If the beat changes, it holds; if it stands still for
//!   [`DEAD_AFTER`], it is dead. No clocks are compared: those of two machines need not agree.
//! * of this machine in an earlier boot: as of another machine, for [`REBOOTED_BEATS`] only. A copy of
//!   this machine, which has its name and its id, would show life by then.
//!
//! A dead lock `n` is taken over by making `n + 1`, which only one of several can, and is deleted
//! then. An owner that finds a higher number than its own has lost the lock, and publishes nothing;
//! its store takes nothing more from it then ([`super::held`]).
//!
//! An owner that could show no life for nearly [`DEAD_AFTER`], as it or its machine was stopped or the
//! server was away, is in doubt: somebody may be about to take over. It goes on when it has shown life
//! again, others have had the time of another beat to see that, and the lock is still its own.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::time::{ClockId, clock_gettime};

use super::held::HeldStore;
use super::owner::{Life, Owner};
use super::{Store, StoreError};
use crate::ui::Ui;

/// How often an owner shows that it lives.
pub const BEAT: Duration = Duration::from_secs(20);
/// Longer than an NFS server that is away makes an owner wait, see [`super::nfs`].
pub const DEAD_AFTER: Duration = Duration::from_secs(360);
/// What is watched of a run that seems to have ended with the machine's last boot.
const REBOOTED_BEATS: u32 = 3;
/// How long a beat on its way may take when the lock is released.
const LET_GO: Duration = Duration::from_secs(5);

/// Holds the lock until it is dropped.
#[derive(Debug)]
pub struct LockGuard {
    shared: Arc<Shared>,
    held: HeldStore,
    beating: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    store: Arc<dyn Store>,
    number: u64,
    owner: Owner,
    lost: Arc<AtomicBool>,
    /// The last beat did not reach the store.
    failing: AtomicBool,
    beat: Duration,
    dead_after: Duration,
    /// When the last beat was sent that reached the store, as [`uptime_ms`] tells it.
    beaten: AtomicU64,
    /// Until when the lock is in doubt.
    certain_from: AtomicU64,
    ended: Mutex<bool>,
    end: Condvar,
}

/// Takes the lock of the tree. Waits only for a lock of another machine, to see whether it lives.
pub fn lock(store: &Arc<dyn Store>, ui: &Ui) -> Result<LockGuard> {
    lock_as(store, Owner::me(), (BEAT, DEAD_AFTER), ui).context("locking the node's tree")
}

/// Returns when no other run holds the lock, which is not taken; or fails, as [`lock`] does.
pub(super) fn wait_for_others(store: &dyn Store, ui: &Ui) -> Result<()> {
    match numbers(store)?.last() {
        Some(&highest) => wait_until_dead(store, highest, &Owner::me(), (BEAT, DEAD_AFTER), ui),
        None => Ok(()),
    }
}

/// The highest number of a lock: it is 1 where none was there, and one more than that of a dead run
/// whose lock is taken over. A server that can't list is asked for each.
pub const MOST: u64 = 8;

fn lock_as(
    store: &Arc<dyn Store>,
    me: Owner,
    (beat, dead_after): (Duration, Duration),
    ui: &Ui,
) -> Result<LockGuard> {
    for _ in 0..8 {
        let found = numbers(&**store)?;
        let seen: Vec<Option<Found>> =
            found.iter().map(|&number| read(&**store, number)).collect::<Result<_>>()?;
        if let Some(&highest) = found.last() {
            wait_until_dead(&**store, highest, &me, (beat, dead_after), ui)?;
        }
        let number = found.last().map_or(1, |n| n + 1);
        if number > MOST {
            // All of them are dead. Another run may have found that too, and have made its own since.
            for (dead, seen) in found.into_iter().zip(seen) {
                if read(&**store, dead)? == seen {
                    store.delete(&name(dead))?;
                }
            }
            continue;
        }
        let beaten = uptime_ms();
        match store.claim(&name(number), &render(&me)?) {
            Err(StoreError::Exists { .. }) => continue,
            other => other?,
        }
        // Somebody may have come and gone with a higher number since the list was read.
        if numbers(&**store)?.last() != Some(&number) {
            store.delete(&name(number))?;
            continue;
        }
        for dead in found {
            store.delete(&name(dead))?;
        }
        return start(Arc::clone(store), number, me, (beat, dead_after), beaten);
    }
    bail!("others take the lock all the time\nhint: try again later")
}

/// Returns when the lock is known to be dead or is gone.
fn wait_until_dead(
    store: &dyn Store,
    number: u64,
    me: &Owner,
    (beat, dead_after): (Duration, Duration),
    ui: &Ui,
) -> Result<()> {
    let held = |owner: &Owner| {
        anyhow::anyhow!(
            "another rr works in {}: {owner}\nhint: let it end; should it hang, end that process",
            store.url()
        )
    };
    let Some(first) = read(store, number)? else { return Ok(()) };
    let (owner, life) = match &first {
        Ok(owner) => (owner.to_string(), owner.life_seen_by(me)),
        Err(text) => (format!("unreadable: {text:?}"), Life::Unknown),
    };
    let taking_over = || ui.info(format!("taking over the lock of a dead run: {owner}"));
    let limit = match (life, &first) {
        (Life::Alive, Ok(owner)) => return Err(held(owner)),
        (Life::Dead, _) => {
            taking_over();
            return Ok(());
        }
        (Life::Rebooted, _) => {
            let limit = dead_after.min(REBOOTED_BEATS * beat);
            ui.info(format!(
                "a lock is there from before this machine was started, or of a copy of it ({owner}): watching for {} s whether its owner lives",
                limit.as_secs()
            ));
            limit
        }
        _ => {
            ui.info(format!(
                "a lock is there ({owner}): watching for up to {} s whether its owner lives",
                dead_after.as_secs()
            ));
            dead_after
        }
    };
    let started = Instant::now();
    while started.elapsed() < limit {
        std::thread::sleep(beat / 4);
        match read(store, number)? {
            None => return Ok(()),
            Some(now) if now == first => {}
            Some(Ok(owner)) => return Err(held(&owner)),
            Some(Err(text)) => bail!("the lock changes and can't be read: {text:?}"),
        }
    }
    if limit < dead_after {
        taking_over();
    } else {
        ui.warn(format!("took over the lock of a run that shows no life ({owner})"));
    }
    Ok(())
}

fn start(
    store: Arc<dyn Store>,
    number: u64,
    owner: Owner,
    (beat, dead_after): (Duration, Duration),
    beaten: u64,
) -> Result<LockGuard> {
    let lost = Arc::new(AtomicBool::new(false));
    let held = HeldStore::new(Arc::clone(&store), Arc::clone(&lost));
    let shared = Arc::new(Shared {
        store,
        number,
        owner,
        lost,
        failing: AtomicBool::new(false),
        beat,
        dead_after,
        beaten: AtomicU64::new(beaten),
        certain_from: AtomicU64::new(0),
        ended: Mutex::new(false),
        end: Condvar::new(),
    });
    let beating = {
        let shared = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("lock".to_owned())
            .spawn(move || shared.keep_beating())
            .context("starting the thread that keeps the lock")?
    };
    Ok(LockGuard { shared, held, beating })
}

impl Shared {
    fn keep_beating(&self) {
        let mut owner = self.owner.clone();
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let waited = self.end.wait_timeout_while(ended, self.beat, |ended| !*ended);
            ended = waited.map_or_else(|poison| poison.into_inner().0, |(ended, _)| ended);
            if *ended {
                return;
            }
            owner.beat += 1;
            let beat = self.beat(&owner);
            self.failing.store(beat.is_err(), Ordering::Relaxed);
            match beat {
                Ok(()) => {}
                Err(_) if self.lost.load(Ordering::Relaxed) => return,
                // The store may come back; `check` looks again before anything is published.
                Err(error) => log::warn!("keeping the lock: {error:#}"),
            }
        }
    }

    fn beat(&self, owner: &Owner) -> Result<()> {
        self.still_ours()?;
        let sent = uptime_ms();
        self.store.put(&name(self.number), &render(owner)?)?;
        if self.is_stale() {
            self.certain_from.store(uptime_ms() + millis(self.beat), Ordering::SeqCst);
        }
        self.beaten.store(sent, Ordering::SeqCst);
        Ok(())
    }

    /// Nothing reached the store for so long that others may soon take the owner for dead.
    fn is_stale(&self) -> bool {
        let age = uptime_ms().saturating_sub(self.beaten.load(Ordering::SeqCst));
        age > millis(self.dead_after.saturating_sub(2 * self.beat))
    }

    fn is_certain(&self) -> bool {
        !self.is_stale() && uptime_ms() >= self.certain_from.load(Ordering::SeqCst)
    }

    /// The highest number must be ours, and what is there under it as well: where the store has no
    /// atomic [`Store::claim`], two may have thought that they made it.
    fn still_ours(&self) -> Result<()> {
        let ours = numbers(&*self.store)?.last() == Some(&self.number)
            && read(&*self.store, self.number)?
                .is_some_and(|found| found.is_ok_and(|owner| owner.is(&self.owner)));
        if !ours {
            self.lost.store(true, Ordering::Relaxed);
        }
        if self.lost.load(Ordering::Relaxed) {
            bail!("another rr has taken over the lock of {}", self.store.url());
        }
        Ok(())
    }
}

impl LockGuard {
    /// Fails where the lock was taken over meanwhile. To be asked before publishing and deleting. Waits
    /// where that is in doubt.
    pub fn check(&self) -> Result<()> {
        // What the store itself takes to answer is no doubt: nobody else gets at it either.
        let mut waited = Duration::ZERO;
        loop {
            self.shared.still_ours()?;
            if self.shared.is_certain() {
                return Ok(());
            }
            ensure!(
                waited < self.shared.dead_after,
                "the lock of {} can't be kept: others may take this run for dead",
                self.shared.store.url()
            );
            let pause = self.shared.beat / 4;
            std::thread::sleep(pause);
            waited += pause;
        }
    }

    /// Whose tree it is. Refuses to be written to once the lock is known to be lost.
    pub fn store(&self) -> &dyn Store {
        &self.held
    }

    /// Deletes what this run has made and should not have, whoever holds the lock by now.
    pub(super) fn take_back(&self, name: &str) -> Result<(), StoreError> {
        self.shared.store.delete(name)
    }

    /// Whether it is known, without asking anybody, that another run has taken the lock over.
    pub(super) fn is_lost(&self) -> bool {
        self.shared.lost.load(Ordering::Relaxed)
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        *self.shared.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.end.notify_all();
        let started = Instant::now();
        while !self.beating.is_finished() && started.elapsed() < LET_GO {
            std::thread::sleep(Duration::from_millis(5));
        }
        // A store that does not answer would make us wait once more for each question. The lock
        // then stays behind, and whoever finds it knows it for dead when this process has ended.
        if !self.beating.is_finished() || self.shared.failing.load(Ordering::Relaxed) {
            log::warn!("the lock of {} is left behind", self.shared.store.url());
            return;
        }
        if self.shared.still_ours().is_ok()
            && let Err(error) = self.shared.store.delete(&name(self.shared.number))
        {
            log::warn!("releasing the lock: {error}");
        }
    }
}

/// Since boot, also while the machine was suspended.
fn uptime_ms() -> u64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |time| millis(Duration::from(time)))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn name(number: u64) -> String {
    format!("lock-{number}.json")
}

/// The numbers of all locks, rising.
fn numbers(store: &dyn Store) -> Result<Vec<u64>> {
    let number = |name: &str| name.strip_prefix("lock-")?.strip_suffix(".json")?.parse().ok();
    let mut found: Vec<u64> =
        store.list("lock-")?.iter().filter_map(|object| number(&object.name)).collect();
    found.sort_unstable();
    Ok(found)
}

/// The error is the text of a lock that can't be read.
type Found = Result<Owner, String>;

/// None: it is gone.
fn read(store: &dyn Store, number: u64) -> Result<Option<Found>> {
    match store.get(&name(number)) {
        Ok(bytes) => Ok(Some(
            serde_json::from_slice(&bytes)
                .map_err(|_| String::from_utf8_lossy(&bytes).into_owned()),
        )),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn render(owner: &Owner) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(owner).context("writing a lock as JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::test_store;
    use crate::ui::Style;

    fn ui() -> Ui {
        Ui::new(Style::Plain)
    }

    fn times(dead_after_ms: u64) -> (Duration, Duration) {
        (Duration::from_millis(40), Duration::from_millis(dead_after_ms))
    }

    #[test]
    fn only_one_holds_it_and_it_is_free_afterwards() {
        let (_dir, store) = test_store();
        let guard = lock(&store, &ui()).unwrap();
        let text = format!("{:#}", lock(&store, &ui()).unwrap_err());
        assert!(text.contains("another rr works in") && text.contains("hint: "), "{text}");
        guard.check().unwrap();
        drop(guard);
        assert!(store.list("").unwrap().is_empty());
        lock(&store, &ui()).unwrap();
    }

    #[test]
    fn the_lock_of_a_dead_process_or_of_an_earlier_boot_is_taken_over() {
        let (_dir, store) = test_store();
        let me = Owner::me();
        let dead_here = Owner { pid: 4_194_305, ..me.clone() };
        let pid_given_again = Owner { pid_start: me.pid_start + 1, ..me.clone() };
        let before_reboot = Owner { boot: "other".into(), ..me.clone() };
        for dead in [dead_here, pid_given_again, before_reboot] {
            store.put("lock-7.json", &render(&dead).unwrap()).unwrap();
            let me = Owner { machine: "m".into(), ..Owner::me() };
            let dead = Owner { machine: "m".into(), ..dead };
            store.put("lock-7.json", &render(&dead).unwrap()).unwrap();
            let guard = lock_as(&store, me, times(60_000), &ui()).unwrap();
            assert_eq!(numbers(&*store).unwrap(), [8]);
            guard.check().unwrap();
        }
    }

    #[test]
    fn the_lock_of_another_container_or_of_a_copy_of_this_machine_holds_while_it_beats() {
        let (_dir, store) = test_store();
        let me = Owner { machine: "m".into(), ..Owner::me() };
        let container = Owner { pid: 4_194_305, pid_ns: Some(1), ..me.clone() };
        let copy = Owner { boot: "other".into(), ..me.clone() };
        // A disk that is busy takes its time for a beat.
        let slow = (Duration::from_millis(300), Duration::from_secs(60));
        for other in [container, copy] {
            let theirs = lock_as(&store, other.clone(), slow, &ui()).unwrap();
            let text = format!("{:#}", lock_as(&store, me.clone(), slow, &ui()).unwrap_err());
            assert!(text.contains("another rr works in"), "{text}");
            drop(theirs);
            store.put("lock-3.json", &render(&other).unwrap()).unwrap();
            drop(lock_as(&store, me.clone(), times(400), &ui()).unwrap());
        }
    }

    /// Two runs find the highest number dead; the other was quicker, and its lock has the first.
    #[test]
    fn a_new_lock_is_not_deleted_for_a_dead_one_of_its_number() {
        let (_dir, store) = test_store();
        let me = Owner { machine: "m".into(), ..Owner::me() };
        let dead = Owner { boot: "other".into(), ..me.clone() };
        for number in [1, MOST] {
            store.put(&name(number), &render(&dead).unwrap()).unwrap();
        }
        std::thread::scope(|scope| {
            let ours = scope.spawn(|| lock_as(&store, me.clone(), times(60_000), &ui()).map(drop));
            std::thread::sleep(Duration::from_millis(60));
            let other = Owner { boot: "third".into(), ..me.clone() };
            let theirs = render(&Owner { machine: "n".into(), ..other }).unwrap();
            store.put("lock-1.json", &theirs).unwrap();
            std::thread::sleep(Duration::from_millis(200));
            assert_eq!(store.get("lock-1.json").unwrap(), theirs);
            store.delete("lock-1.json").unwrap();
            ours.join().unwrap().unwrap();
        });
    }

    #[test]
    fn the_lock_of_another_machine_holds_while_it_beats() {
        let (_dir, store) = test_store();
        let other = Owner {
            boot: "other".into(),
            machine: "other".into(),
            host: "b".into(),
            ..Owner::me()
        };
        let theirs = lock_as(&store, other.clone(), times(60_000), &ui()).unwrap();
        let text = format!("{:#}", lock_as(&store, Owner::me(), times(5000), &ui()).unwrap_err());
        assert!(text.contains(" on b since "), "{text}");
        drop(theirs);

        // One that does not beat, and one whose text was cut off, are dead after the time.
        for text in [render(&other).unwrap(), b"{".to_vec()] {
            store.put("lock-3.json", &text).unwrap();
            let guard = lock_as(&store, Owner::me(), times(200), &ui()).unwrap();
            assert_eq!(numbers(&*store).unwrap(), [4]);
            drop(guard);
        }
    }

    #[test]
    fn an_owner_that_was_taken_over_notices_and_deletes_nothing() {
        let (_dir, store) = test_store();
        let guard = lock_as(&store, Owner::me(), times(60_000), &ui()).unwrap();
        store.put("lock-2.json", &render(&Owner::me()).unwrap()).unwrap();
        assert!(guard.check().is_err());
        drop(guard);
        assert!(numbers(&*store).unwrap().contains(&2));
    }

    #[test]
    fn an_owner_that_was_taken_over_writes_nothing_more() {
        let (_dir, store) = test_store();
        let guard = lock_as(&store, Owner::me(), times(60_000), &ui()).unwrap();
        guard.store().put("packs/a", b"a").unwrap();
        store.put("lock-2.json", &render(&Owner::me()).unwrap()).unwrap();
        // Nobody asks: the thread that beats finds out.
        let started = Instant::now();
        while !guard.is_lost() && started.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(5));
        }
        for refused in [
            guard.store().put("packs/b", b"b"),
            guard.store().put_new("packs/b", b"b"),
            guard.store().delete("packs/a"),
        ] {
            let text = refused.unwrap_err().to_string();
            assert!(text.contains("another rr has taken over its lock"), "{text}");
        }
        assert_eq!(guard.store().get("packs/a").unwrap(), b"a");
        assert_eq!(store.list("packs/").unwrap().len(), 1);
    }

    #[test]
    fn an_owner_whose_lock_was_written_over_notices() {
        let (_dir, store) = test_store();
        let guard = lock_as(&store, Owner::me(), times(60_000), &ui()).unwrap();
        guard.check().unwrap();
        let other = Owner { host: "b".into(), ..Owner::me() };
        store.put("lock-1.json", &render(&other).unwrap()).unwrap();
        assert!(guard.check().is_err());
        drop(guard);
        assert_eq!(numbers(&*store).unwrap(), [1], "it is the other's");
    }

    #[test]
    fn an_owner_that_stood_still_waits_before_it_goes_on() {
        let (_dir, store) = test_store();
        let beat = Duration::from_millis(400);
        let guard = lock_as(&store, Owner::me(), (beat, 50 * beat), &ui()).unwrap();
        guard.check().unwrap();
        let stand_still = || guard.shared.beaten.store(0, Ordering::SeqCst);
        assert!(uptime_ms() > 20_000, "the machine has only just started");
        stand_still();
        let started = Instant::now();
        guard.check().unwrap();
        assert!(started.elapsed() >= beat, "{:?}", started.elapsed());
        guard.check().unwrap();
        // Somebody had already made up his mind.
        stand_still();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(beat / 8);
                store.put("lock-2.json", &render(&Owner::me()).unwrap()).unwrap();
            });
            assert!(guard.check().is_err());
        });
    }

    #[test]
    fn many_at_once_get_one_lock() {
        let (_dir, store) = test_store();
        let dead = Owner { pid: 4_194_305, ..Owner::me() };
        store.put("lock-1.json", &render(&dead).unwrap()).unwrap();
        let guards: Vec<_> = std::thread::scope(|scope| {
            let tries: Vec<_> = (0..8).map(|_| scope.spawn(|| lock(&store, &ui()).ok())).collect();
            tries.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(guards.iter().flatten().count(), 1);
    }
}
