//! Drivers: live, record and replay. They feed events to the pure core and carry out its actions.
