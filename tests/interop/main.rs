//! Our formats against the programs that define them.

mod disk;
mod qcow2;
mod tool;
