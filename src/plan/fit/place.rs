//! Where striped volumes lie in a group whose physical volumes have other sizes: each stripe needs as
//! much room on a physical volume of its own.

use crate::layout::{Id, Lv, LvSegment, Vg};

/// A physical volume, filled from its start.
struct Room {
    on: Id,
    next: u64,
    free: u64,
}

impl Room {
    /// `part:sda2:0-99`.
    fn take(&mut self, extents: u64) -> String {
        let first = self.next;
        self.next += extents;
        self.free -= extents;
        format!("{}:{first}-{}", self.on, self.next - 1)
    }
}

/// Stripes of a volume; 1 where it has none.
pub(super) fn stripes(lv: &Lv) -> u64 {
    lv.segment.first().map_or(1, |segment| u64::from(segment.stripes.max(1)))
}

/// A striped volume that can be made with fewer or more extents: all of it is striped alike.
pub(super) fn is_striped(lv: &Lv) -> bool {
    let shape = |s: &LvSegment| (s.kind.clone(), s.stripes, s.stripe_bytes);
    lv.kind == "striped"
        && stripes(lv) > 1
        && lv.segment.iter().all(|s| s.kind == "striped" && shape(s) == shape(&lv.segment[0]))
}

/// The segments of volumes with so many extents, in their order. None: there is no room for them.
pub(super) fn place(vg: &Vg, volumes: &[(&Lv, u64)]) -> Option<Vec<Vec<LvSegment>>> {
    let room = |pv: &crate::layout::Pv| Room { on: pv.on.clone(), next: 0, free: pv.extents };
    let mut rooms: Vec<Room> = vg.pv.iter().map(room).collect();
    let mut order: Vec<usize> = (0..volumes.len()).collect();
    // What needs several at a time goes first.
    order.sort_by_key(|n| std::cmp::Reverse(stripes(volumes[*n].0)));
    let mut placed = vec![Vec::new(); volumes.len()];
    for n in order {
        let (lv, extents) = volumes[n];
        placed[n] = match stripes(lv) {
            1 => linear(lv, extents, &mut rooms)?,
            stripes => vec![striped(lv, extents, stripes, &mut rooms)?],
        };
    }
    Some(placed)
}

fn striped(lv: &Lv, extents: u64, stripes: u64, rooms: &mut [Room]) -> Option<LvSegment> {
    let each = extents / stripes;
    let on = |room: &Room| {
        lv.segment
            .iter()
            .flat_map(|s| &s.on)
            .any(|p| p.rsplit_once(':').is_some_and(|(device, _)| device == room.on.0))
    };
    let mut fitting: Vec<&mut Room> = rooms.iter_mut().filter(|room| room.free >= each).collect();
    // Where it was, if there is room; else where most is.
    fitting.sort_by_key(|room| (!on(room), std::cmp::Reverse(room.free)));
    let wanted = usize::try_from(stripes).ok()?;
    if each == 0 || !extents.is_multiple_of(stripes) || fitting.len() < wanted {
        return None;
    }
    let on = fitting.into_iter().take(wanted).map(|room| room.take(each)).collect();
    Some(LvSegment { extents, on, ..lv.segment.first()?.clone() })
}

fn linear(lv: &Lv, extents: u64, rooms: &mut [Room]) -> Option<Vec<LvSegment>> {
    let mut segments = Vec::new();
    let mut left = extents;
    for room in rooms.iter_mut().filter(|room| room.free > 0) {
        let extents = room.free.min(left);
        if extents > 0 {
            let on = vec![room.take(extents)];
            segments.push(LvSegment { extents, on, ..lv.segment.first()?.clone() });
            left -= extents;
        }
    }
    (left == 0).then_some(segments)
}
