//! The host ends of devices: disk files, network endpoints, consoles. They move bytes and hold no decisions.
