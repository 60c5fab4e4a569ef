//! Tests of the card through its registers.
