//! Tests of the IDE interface through its registers.
