//! Network cards.

pub mod e1000;
