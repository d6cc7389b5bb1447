//! Neighbours of points.

use std::ops::{Deref, Index, IndexMut};

use crate::segment::DEGREE;

/// At most [`DEGREE`] offsets, in order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct List {
    len: u32,
    offsets: [u32; DEGREE],
}

impl List {
    pub(crate) const EMPTY: Self = Self { len: 0, offsets: [0; DEGREE] };

    pub(crate) fn is_full(&self) -> bool {
        self.len() == DEGREE
    }

    /// # Panics
    /// If it is full.
    pub(crate) fn push(&mut self, offset: u32) {
        self.offsets[self.len as usize] = offset;
        self.len += 1;
    }

    /// Puts `offset` where the `at`-th one is.
    pub(crate) fn replace(&mut self, at: usize, offset: u32) {
        assert!(at < self.len(), "link {at} of {}", self.len());
        self.offsets[at] = offset;
    }
}

impl Deref for List {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        &self.offsets[..self.len as usize]
    }
}

impl FromIterator<u32> for List {
    /// # Panics
    /// If there are too many.
    fn from_iter<I: IntoIterator<Item = u32>>(offsets: I) -> Self {
        let mut list = Self::EMPTY;
        offsets.into_iter().for_each(|offset| list.push(offset));
        list
    }
}

/// The neighbours of every point, by offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Links(Vec<List>);

impl Links {
    /// No links among `len` points.
    pub(crate) fn none(len: usize) -> Self {
        Self(vec![List::EMPTY; len])
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl From<Vec<List>> for Links {
    fn from(lists: Vec<List>) -> Self {
        Self(lists)
    }
}

impl Index<u32> for Links {
    type Output = List;

    fn index(&self, offset: u32) -> &List {
        &self.0[offset as usize]
    }
}

impl IndexMut<u32> for Links {
    fn index_mut(&mut self, offset: u32) -> &mut List {
        &mut self.0[offset as usize]
    }
}
