//! Buffers that were used, for those to come: the kernel takes longer to give new memory than we take
//! to fill it.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Empty buffers with room, no more of them than `most`.
#[derive(Debug)]
pub struct Spare {
    buffers: Mutex<Vec<Vec<u8>>>,
    most: usize,
}

impl Spare {
    pub fn new(most: usize) -> Spare {
        Spare { buffers: Mutex::default(), most }
    }

    pub fn take(&self) -> Vec<u8> {
        self.lock().pop().unwrap_or_default()
    }

    pub fn give(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let mut buffers = self.lock();
        if buffer.capacity() > 0 && buffers.len() < self.most {
            buffers.push(buffer);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
