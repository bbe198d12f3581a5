//! What fstab(5) waits for and is not there: a recovery would find that out at its end.

use std::path::Path;

use crate::probe::devices::Devices;
use crate::probe::fstab::{self, Entry};

/// The lines whose device is missing now, as it then will be after a recovery.
pub(super) fn absent(
    fstab: Vec<Entry>,
    crypttab: &str,
    devices: &Devices,
    is_mounted: impl Fn(&Path) -> bool,
) -> Vec<String> {
    let lines = fstab::awaited(fstab, crypttab).into_iter();
    lines
        .filter(|line| devices.lacks(&line.spec))
        .map(|line| {
            let (path, spec) = (line.path.display(), &line.spec);
            let what = match is_mounted(&line.path) {
                true => format!("{path} is in /etc/fstab on {spec}, which is not there"),
                false => format!(
                    "{path} is in /etc/fstab and is not mounted, as {spec} is not there: it is not in the backup"
                ),
            };
            format!(
                "{what}; the machine waits for it when it starts, and a recovery would end as failed\nhint: give that line the option nofail, or take it out"
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_is_unplugged_is_told_before_a_recovery_fails_for_it() {
        let devices = Devices::new("DEVNAME=/dev/sda1\nUUID=1\n", Path::new("/none"));
        let told = |fstab: &str| {
            let is_mounted = |path: &Path| path == Path::new("/srv");
            absent(
                fstab::parse(fstab.as_bytes()),
                "tmp /dev/sda3 /dev/urandom\n",
                &devices,
                is_mounted,
            )
        };
        let fine = "UUID=1 / ext4\n/dev/mapper/tmp /tmp ext4\nUUID=2 /a ext4 nofail\n\
                    /dev/sr0 /cd udf noauto\nsrv:/export /mnt nfs\n/dev/sdb2 none swap\n";
        assert_eq!(told(fine), [""; 0]);
        let [away, by_hand] =
            &told("UUID=1234 /mnt/usbbackup ext4 defaults 0 2\nUUID=3 /srv xfs\n")[..]
        else {
            panic!("not two problems")
        };
        let start =
            "/mnt/usbbackup is in /etc/fstab and is not mounted, as UUID=1234 is not there:";
        assert!(away.starts_with(start), "{away}");
        assert!(by_hand.starts_with("/srv is in /etc/fstab on UUID=3, which is not there;"));
    }
}
