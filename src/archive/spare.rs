//! Buffers that were used, for those to come: the kernel takes longer to give new memory than we take
//! to fill it.

use std::sync::Mutex;

use crate::sys::sync::lock;

/// Empty buffers of one size, no more of them than `most`.
#[derive(Debug)]
pub struct Spare {
    buffers: Mutex<Vec<Vec<u8>>>,
    most: usize,
    room_bytes: usize,
}

impl Spare {
    pub fn new(most: usize, room_bytes: usize) -> Spare {
        Spare { buffers: Mutex::default(), most, room_bytes }
    }

    /// One with room for `room_bytes`. What is not used of it takes no memory.
    pub fn take(&self) -> Vec<u8> {
        lock(&self.buffers).pop().unwrap_or_else(|| Vec::with_capacity(self.room_bytes))
    }

    /// Takes back one that was taken, or any other.
    pub fn give(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let mut buffers = lock(&self.buffers);
        let fits = (self.room_bytes..=self.room_bytes * 2).contains(&buffer.capacity());
        if fits && buffers.len() < self.most {
            buffers.push(buffer);
        }
    }
}
