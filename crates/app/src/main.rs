//! The fitup command line.
fn main() {}
